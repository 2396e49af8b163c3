"""Records are from the sources, fit the caller's schema, and those that do not are mended or named."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from services.core.claude.protocol import Truncation
from services.core.errors import ClaudeMalformedAnswerError, StepInputError, StepTransientError
from services.pipelines.definition import StepContext, WebPage
from services.pipelines.extract_records.pipeline import EXTRACT_RECORDS
from services.pipelines.extract_records.read_sources import MAX_PAGES_CHARS
from services.pipelines.extract_records.schemas import ExtractedRecords, ExtractInput
from tests.fakes.answering_claude import AnsweringClaude
from tests.fakes.step_claude import ScriptedClaude
from tests.fakes.step_context import step_context
from tests.fakes.web import FakeWeb

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "year": {"type": "integer", "maximum": 2100}},
    "required": ["title"],
}
PAGE = "https://example.org/page"
GONE = "https://example.org/gone"
DOWN = "https://example.org/down"
WEB = FakeWeb(
    {PAGE: WebPage(PAGE, "Books", "page text"), DOWN: StepTransientError("it answered 503")}
)
GOOD = {"title": "A <b>", "year": 2024}
BAD = {"title": "B", "year": 9999}


async def run(context: StepContext, **given: Any) -> ExtractedRecords:
    value: BaseModel = EXTRACT_RECORDS.input_type.model_validate({"schema": SCHEMA} | given)
    for step in EXTRACT_RECORDS.steps:
        checkpoint = value.model_dump(mode="json")
        value = await step.function(step.input_type.model_validate(checkpoint), context)
    return ExtractedRecords.model_validate(value.model_dump(mode="json"))


async def test_records_say_which_source_they_are_from() -> None:
    """Pages first, then texts; what could not be read is noted."""
    claude = ScriptedClaude({"records": [GOOD]}, {"records": []}, {"records": [GOOD, GOOD]})

    output = await run(
        step_context(claude=claude, web=WEB), urls=[PAGE, GONE, DOWN], texts=["one", "two"]
    )

    assert [1, 5, 5] == [record.source_id for record in output.records]
    assert [
        (1, PAGE, "Books", "found", None, 1),
        (2, GONE, None, "not_found", "it answered 404", 0),
        (3, DOWN, None, "unreachable", "it answered 503", 0),
        (4, None, None, "found", None, 0),
        (5, None, None, "found", None, 2),
    ] == [(s.id, s.url, s.title, s.status.value, s.reason, s.records) for s in output.sources]
    assert (output.rejected, output.simulated, output.model) == ((), False, "claude-scripted")


async def test_a_question_holds_one_source_and_the_instructions() -> None:
    """And no other source's text."""
    claude = ScriptedClaude({"records": []}, {"records": []})

    await run(step_context(claude=claude), texts=["one", "two < 3"], instructions="Only < 5.")

    assert [
        f'<document id="{number}" title="" part="1" parts="1">\n{text}\n</document>'
        for number, text in [(1, "one"), (2, "two &lt; 3")]
    ] == [request.prompt for request in claude.requests]
    assert {"<instructions>Only &lt; 5.</instructions>"} == {
        request.shared for request in claude.requests
    }


async def test_a_long_list_of_records_is_continued() -> None:
    """Both questions allow it: an answer that reaches max_tokens is not lost."""
    claude = ScriptedClaude({"records": [BAD]}, {"records": [GOOD]})

    await run(step_context(claude=claude), texts=["one"])

    assert [Truncation.CONTINUE] * 2 == [request.on_truncation for request in claude.requests]


async def test_what_claude_copied_is_read_back() -> None:
    """Values are as the document has them, at any depth."""
    copied = {"title": "A &lt;b>", "year": 2024, "tags": [{"x": "&amp;lt;"}]}
    claude = ScriptedClaude({"records": [copied]})

    (record,) = (await run(step_context(claude=claude), texts=["x"])).records

    assert record.record == GOOD | {"tags": [{"x": "&lt;"}]}


async def test_a_record_that_does_not_fit_is_mended() -> None:
    """Claude gets the document once more, the record and what is wrong, and only of those that do not fit."""
    claude = ScriptedClaude({"records": [GOOD, BAD]}, {"records": [BAD | {"year": 1999}]})

    output = await run(step_context(claude=claude), texts=["x"])

    assert [2024, 1999] == [record.record["year"] for record in output.records]
    prompt = claude.requests[1].prompt
    assert (
        f"<rejected><record>{json.dumps(BAD)}</record>\n"
        "<error>/year: 9999 is greater than the maximum of 2100</error></rejected>"
    ) in prompt
    assert '<document id="1"' in prompt
    assert "2024" not in prompt


async def test_what_cannot_be_mended_is_rejected_with_its_errors() -> None:
    """Two more questions, not three; the records that fit are kept."""
    claude = ScriptedClaude(*[{"records": [GOOD, BAD]}, {"records": [BAD]}, {"records": [BAD]}])

    output = await run(step_context(claude=claude), texts=["x"])

    assert len(claude.requests) == 3
    assert [GOOD] == [{**record.record} for record in output.records]
    (rejected,) = output.rejected
    assert (1, BAD) == (rejected.source_id, rejected.record)
    assert rejected.errors == ("/year: 9999 is greater than the maximum of 2100",)


async def test_a_repair_adds_no_records() -> None:
    """Claude was asked about one; what it repeats or adds is no correction."""
    mended = BAD | {"year": 1999}
    claude = ScriptedClaude({"records": [GOOD, BAD]}, {"records": [GOOD, mended, {"title": "C"}]})

    output = await run(step_context(claude=claude), texts=["x"])

    assert [GOOD, mended] == [record.record for record in output.records]


async def test_records_of_which_none_fits_are_no_answer() -> None:
    """The step fails, and its error quotes nothing of them."""
    claude = ScriptedClaude(*[{"records": [BAD]}] * 3)

    with pytest.raises(ClaudeMalformedAnswerError, match="none of 1 records fits") as caught:
        await run(step_context(claude=claude), texts=["x"])
    assert "9999" not in str(caught.value)


async def test_no_record_is_an_answer() -> None:
    """A document may hold none."""
    output = await run(step_context(claude=ScriptedClaude({"records": []})), texts=["x"])

    assert (output.records, output.rejected) == ((), ())


async def test_a_long_source_is_read_in_parts() -> None:
    """Each question is of bounded size; the records are the one source's."""
    claude = AnsweringClaude(lambda _: {"records": [GOOD]})

    output = await run(step_context(claude=claude), texts=["word " * 20_000])

    assert len(claude.requests) == 5
    assert max(len(request.prompt.encode()) for request in claude.requests) < 26_000
    assert (5, {1}) == (len(output.records), {record.source_id for record in output.records})


async def test_pages_are_cut_and_the_output_says_so() -> None:
    """Twenty endless pages are bounded together; a given text is never cut."""
    urls = [f"https://example.org/{number}" for number in range(20)]
    web = FakeWeb({url: WebPage(url, None, "word " * 10_000) for url in urls})
    claude = AnsweringClaude(lambda _: {"records": []})

    output = await run(step_context(claude=claude, web=web), urls=urls, texts=["word " * 39_000])

    assert [True] * 20 + [False] == [source.is_cut for source in output.sources]
    sent = sum(len(request.prompt) for request in claude.requests)
    assert sent < MAX_PAGES_CHARS + 39_000 * 5 + 30 * 200


async def test_an_outage_of_everything_is_tried_again() -> None:
    """Waiting may help."""
    with pytest.raises(StepTransientError, match="it answered 503"):
        await run(step_context(web=WEB), urls=[DOWN, GONE])


@pytest.mark.parametrize("given", [{"urls": [GONE]}, {"texts": ["\u200b"]}])
async def test_nothing_to_read_fails_for_good(given: dict[str, Any]) -> None:
    """The reasons are in the failure."""
    with pytest.raises(StepInputError, match=r"no source could be read: .*(404|seen)"):
        await run(step_context(web=WEB), **given)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"schema": {"type": "string"}}, ("schema",)),
        ({"schema": "object"}, ("schema",)),
        ({"texts": []}, ()),
        ({"texts": ["x" * 200_001]}, ("texts", 0)),
        ({"texts": ["x"] * 21}, ("texts",)),
        ({"urls": ["ftp://example.org/"]}, ("urls", 0)),
        ({"instructions": "x" * 2001}, ("instructions",)),
        ({"more": 1}, ("more",)),
    ],
)
def test_a_wrong_input_is_refused_with_its_field(
    changes: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    """Before anything is read or paid for."""
    with pytest.raises(ValidationError) as caught:
        ExtractInput.model_validate({"schema": SCHEMA, "texts": ["x"]} | changes)

    assert [place] == [error["loc"] for error in caught.value.errors()]
