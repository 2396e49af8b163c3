"""Documents become a summary each and one of all, whatever their number and length."""

import pytest
from pydantic import ValidationError

from services.core.claude.protocol import ClaudeRequest
from services.core.errors import (
    ClaudeMalformedAnswerError,
    ClaudeOverloadedError,
    StepInputError,
    StepTransientError,
)
from services.pipelines.definition import WebPage
from services.pipelines.summarize_documents.read_documents import MAX_PAGES_CHARS
from services.pipelines.summarize_documents.schemas import SummarizeInput
from tests.fakes.answering_claude import AnsweringClaude
from tests.fakes.step_claude import ScriptedClaude
from tests.fakes.step_context import step_context
from tests.fakes.web import FakeWeb
from tests.unit.pipelines.summarize_documents.conftest import Run, repeat

PAGE = "https://example.org/page"
GONE = "https://example.org/gone"
DOWN = "https://example.org/down"
WEB = FakeWeb(
    {PAGE: WebPage(PAGE, "A page", "page text"), DOWN: StepTransientError("it answered 503")}
)


def texts(count: int, *, words: int = 1) -> dict[str, list[dict[str, str]]]:
    return {"documents": [{"text": f"t{number} " * words} for number in range(1, count + 1)]}


async def test_pages_and_texts_become_one_summary(run: Run) -> None:
    """What could not be read is noted with its reason, and the rest is summarized."""
    claude = AnsweringClaude(repeat)
    documents = [{"url": PAGE}, {"url": GONE}, {"url": DOWN}, {"text": "given", "title": "Mine"}]

    output = await run(step_context(claude=claude, web=WEB), {"documents": documents})

    assert (output.summary, output.simulated, output.model) == ("page given", False, "claude-answering")  # fmt: skip
    assert [
        (1, PAGE, "A page", "found", None, "page", True),
        (2, GONE, None, "not_found", "it answered 404", None, False),
        (3, DOWN, None, "unreachable", "it answered 503", None, False),
        (4, None, "Mine", "found", None, "given", True),
    ] == [
        (d.id, d.url, d.title, d.status.value, d.reason, d.summary, d.cited)
        for d in output.documents
    ]


async def test_the_wish_is_in_every_question(run: Run) -> None:
    """Focus and length reach Claude in the map calls and in the last one."""
    claude = AnsweringClaude(repeat)

    await run(step_context(claude=claude), texts(2) | {"focus": "a < b?", "length": "short"})

    assert len(claude.requests) == 3
    for request in claude.requests:
        assert "<focus>a &lt; b?</focus>\n<length>two or three sentences</length>" == request.shared


async def test_one_document_costs_one_call(run: Run) -> None:
    """Its summary is the summary of all."""
    claude = AnsweringClaude(repeat)

    output = await run(step_context(claude=claude), texts(1))

    assert len(claude.requests) == 1
    assert (output.summary, output.documents[0].summary) == ("t1", "t1")
    assert output.documents[0].cited


async def test_a_long_document_is_read_in_parts(run: Run) -> None:
    """Each part is one question of bounded size, and their summaries become the document's."""
    claude = AnsweringClaude(repeat)

    output = await run(step_context(claude=claude), texts(1, words=20_000))

    sizes = [len(request.prompt.encode()) for request in claude.requests]
    assert len(sizes) == 4
    assert max(sizes) < 26_000
    assert 'id="1" title="" part="3" parts="3"' in claude.requests[2].prompt
    assert 'ids="3"' in claude.requests[3].prompt
    assert output.documents[0].summary == "t1 t1 t1"


async def test_many_summaries_are_combined_in_rounds(run: Run) -> None:
    """No question grows with the number of documents, and citations go through all rounds."""

    def at_length(request: ClaudeRequest) -> dict[str, object]:
        return repeat(request) | {"summary": "word " * 2000}

    claude = AnsweringClaude(at_length)

    output = await run(step_context(claude=claude), texts(50))

    assert max(len(request.prompt.encode()) for request in claude.requests) < 26_000
    # 50 documents, then 25 pairs, 13 of which one is left over, 7, 4, 2 and 1.
    assert len(claude.requests) == 50 + 25 + 12 + 6 + 3 + 2 + 1
    assert all(document.cited for document in output.documents)


async def test_checkpoints_keep_a_quarter_each_and_no_text_twice(run: Run) -> None:
    """What a crash can cost is a quarter; a text goes once its summary is there."""
    steps: list[object] = []

    await run(step_context(claude=AnsweringClaude(repeat)), texts(8), checkpoints=steps)

    summarized = [
        [bool(document.summary) for document in progress.documents].count(True)
        for progress in steps[:5]
    ]
    assert summarized == [0, 2, 4, 6, 8]
    for progress in steps[:5]:
        for document in progress.documents:
            assert bool(document.text) != bool(document.summary)


async def test_a_page_s_share_of_the_text_is_bounded(run: Run) -> None:
    """Fifty endless pages are cut, and the output says so."""
    urls = [f"https://example.org/{number}" for number in range(50)]
    web = FakeWeb({url: WebPage(url, None, "word " * 100_000) for url in urls})
    steps: list[object] = []

    output = await run(
        step_context(claude=AnsweringClaude(repeat), web=web),
        {"documents": [{"url": url} for url in urls]},
        checkpoints=steps,
    )

    assert sum(len(document.text) for document in steps[0].documents) <= MAX_PAGES_CHARS
    assert all(document.is_cut for document in output.documents)


async def test_an_outage_of_everything_is_tried_again(run: Run) -> None:
    """Waiting may help; Claude was not asked."""
    with pytest.raises(StepTransientError, match="it answered 503"):
        await run(step_context(web=WEB), {"documents": [{"url": DOWN}, {"url": GONE}]})


@pytest.mark.parametrize("document", [{"url": GONE}, {"text": "\u200b\u2060"}])
async def test_nothing_to_read_fails_for_good(run: Run, document: dict[str, str]) -> None:
    """The reasons are in the failure."""
    with pytest.raises(StepInputError, match=r"no document could be read: .*(404|seen)"):
        await run(step_context(web=WEB), {"documents": [document]})


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        ({"summary": "fine", "document_ids": [1, 3]}, r"documents \[3\] were not given"),
        ({"summary": "fine", "document_ids": []}, "draws on no document"),
        ({"summary": " ", "document_ids": [1]}, "the summary is empty"),
        ({"summary": "x" * 12_001, "document_ids": [1]}, "longer than 12000 bytes"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_refused(
    run: Run, last: dict[str, object], problem: str
) -> None:
    """A summary rests on what was given, and says so."""
    claude = ScriptedClaude({"summary": "one"}, {"summary": "two"}, last)

    with pytest.raises(ClaudeMalformedAnswerError, match=problem):
        await run(step_context(claude=claude), texts(2))


async def test_claude_s_errors_pass_through(run: Run) -> None:
    """The worker knows what follows from each."""
    with pytest.raises(ClaudeOverloadedError):
        await run(step_context(claude=ScriptedClaude(ClaudeOverloadedError())), texts(1))


@pytest.mark.parametrize(
    "given",
    [
        {"documents": []},
        {"documents": [{}]},
        {"documents": [{"url": PAGE, "text": "both"}]},
        {"documents": [{"text": "x" * 200_001}]},
        {"documents": [{"url": "file:///etc/passwd"}]},
        {"documents": [{"url": PAGE}] * 51},
        {"documents": [{"url": PAGE}], "length": "endless"},
    ],
)
def test_a_wrong_input_is_refused(given: dict[str, object]) -> None:
    """Before anything is read or paid for."""
    with pytest.raises(ValidationError):
        SummarizeInput.model_validate(given)
