"""A simulated summary is made of the documents' own sentences."""

from services.simulator.material import Material
from services.simulator.summary import summarize

ONE = '<document id="3" title="">First. Second costs 4 &lt; 5. Third. Fourth.</document>'


def test_one_document_gives_three_sentences() -> None:
    """In its own order and spelling."""
    assert summarize(Material(ONE)) == {
        "summary": "First. Second costs 4 < 5. Third.",
        "document_ids": [3],
    }


def test_several_documents_give_a_sentence_each_about_the_focus() -> None:
    """All ids are cited, also those of a summary of several."""
    prompt = f'<focus>What are the costs?</focus>\n{ONE}\n<document ids="1 2">Other.</document>'

    assert summarize(Material(prompt)) == {
        "summary": "Second costs 4 < 5. Other.",
        "document_ids": [1, 2, 3],
    }


def test_text_without_full_stops_is_cut() -> None:
    """A summary is shorter than what it is of."""
    found = summarize(Material(f"<document>{'word ' * 1000}</document>"))

    assert found is not None
    assert len(found["summary"]) == 500


def test_a_prompt_without_documents_asks_for_no_summary() -> None:
    """Other rules answer it."""
    assert summarize(Material("<source>First.</source>")) is None
