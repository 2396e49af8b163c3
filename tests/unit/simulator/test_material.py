"""services.simulator.material: what stands where in a prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.simulator.material import Material, normal_name, split_sentences, words_of

PROMPT = """<template type="book">
Dear {{name}},
Note: this line is no fact.
</template>
<recipient>
name: Ada Lovelace
- Field of work: engines
</recipient>
<sender>
name: Charles
</sender>
<sources>
<source id="1" url="https://example.org/" title="A &lt;b> &quot;title&quot;">
First sentence. Second one &lt; third.
Label: value
</source>
<source id="2">
Other text
</source>
</sources>"""


def test_sections_are_read_with_their_attributes():
    """Sections within sections, attributes and escaped signs."""
    sources = Material(PROMPT).sources

    assert [source.attributes["id"] for source in sources] == ["1", "2"]
    assert sources[0].attributes["title"] == 'A <b> "title"'
    assert sources[0].text == "First sentence. Second one < third.\nLabel: value"
    assert Material(PROMPT).elements("sources")[0].children == tuple(sources)


def test_pairs_come_from_the_sections_about_people():
    """Lines of template and sources are no facts about anybody; the first of a name counts."""
    assert Material(PROMPT).pairs == {
        "recipient_name": "Ada Lovelace",
        "name": "Ada Lovelace",
        "recipient_field_of_work": "engines",
        "field_of_work": "engines",
        "sender_name": "Charles",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("name", "Ada Lovelace"),
        ("senderName", "Charles"),
        ("url", "https://example.org/"),
        ("type", "book"),
        ("phone", None),
    ],
)
def test_value_of_finds_lines_sections_and_attributes(name, expected):
    """Whatever the prompt calls by that name, in whichever spelling."""
    assert expected == Material(PROMPT).value_of(name)


def test_sentences_are_those_of_the_sources():
    """Sources are there to be quoted; a prompt without them is quoted itself."""
    assert Material(PROMPT).sentences == (
        "First sentence.",
        "Second one < third.",
        "Label: value",
        "Other text",
    )
    assert Material("<b>One.</b> Two?").sentences == ("One.", "Two?")


def test_titles_and_initials_end_no_sentence():
    """A name is not torn apart."""
    text = "Dr. Ada K. Lovelace met Prof. Babbage. They talked! About what?\nEngines"

    assert split_sentences(text) == [
        "Dr. Ada K. Lovelace met Prof. Babbage.",
        "They talked!",
        "About what?",
        "Engines",
    ]


def test_names_have_one_spelling():
    """Case, humps, dots and underscores do not matter."""
    spellings = ["recentPaper", "Recent paper", "recent_paper", "recent.paper"]

    assert {"recent_paper"} == {normal_name(name) for name in spellings}
    assert words_of("recentPaper") == ["recent", "paper"]


@settings(deadline=None)
@given(st.text(alphabet='<>/ab="& \n:.{}', max_size=200))
def test_any_prompt_can_be_read(prompt):
    """Broken tags are text."""
    material = Material(prompt)

    assert isinstance(material.plain_text, str)
    assert isinstance(material.sentences, tuple)
    assert isinstance(material.pairs, dict)
