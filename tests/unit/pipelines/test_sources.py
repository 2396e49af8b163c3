"""What a page said, or why it said nothing; nothing in it that a reader cannot see."""

import pytest

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.definition import WebPage
from services.pipelines.sources import (
    SourceReading,
    SourceStatus,
    clean_text,
    clean_title,
    read_source,
    retry_if_all_is_down,
)
from tests.fakes.step_context import step_context
from tests.fakes.web import FakeWeb

URL = "https://example.org/"
FOUND = SourceReading(URL, SourceStatus.FOUND, text="text")
GONE = SourceReading(URL, SourceStatus.NOT_FOUND, "it answered 404")
DOWN = SourceReading(URL, SourceStatus.UNREACHABLE, "it answered 503")


@pytest.mark.parametrize(
    ("page", "reading"),
    [
        (WebPage(URL, " A\n title", "text"), SourceReading(URL, SourceStatus.FOUND, None, "A title", "text")),
        (WebPage(URL, None, "text"), FOUND),
        (WebPage(URL, None, "\u200b\ufeff "), SourceReading(URL, SourceStatus.NOT_FOUND, "the page holds no text")),
        (StepInputError("it answered 404"), GONE),
        (StepTransientError("it answered 503"), DOWN),
    ],
)  # fmt: skip
async def test_a_source_is_read_or_noted(page: WebPage | Exception, reading: SourceReading) -> None:
    """No source fails a step by itself."""
    context = step_context(web=FakeWeb({URL: page}))

    assert reading == await read_source(URL, context)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\x00b\x1b[31m\x85\tc\nd", "a b [31m \tc\nd"),
        ("pay\u200bpal \u202eevil\u202c \U000e0069\U000e0067", "paypal evil "),
        ("\uff1c/source\uff1e", "</source\uff1e"),
        ("می\u200cخواهم 👩\u200d🔬 \u05d0\u200f", "می\u200cخواهم 👩\u200d🔬 \u05d0\u200f"),
    ],
)
def test_what_nobody_sees_is_taken_out(text: str, cleaned: str) -> None:
    """Control, hidden and turning characters go; what languages are written with stays."""
    assert cleaned == clean_text(text)


def test_a_title_is_one_short_line() -> None:
    """However long the page made it."""
    assert clean_title(" \x00 \n") is None
    assert clean_title("a\n" * 500) == ("a " * 150)[:300]


@pytest.mark.parametrize("readings", [[FOUND, DOWN], [GONE], []])
def test_most_gaps_are_no_reason_to_wait(readings: list[SourceReading]) -> None:
    """Something was found, or nothing will be."""
    retry_if_all_is_down(readings)


def test_an_outage_of_everything_is() -> None:
    """The message says which source said what."""
    with pytest.raises(StepTransientError, match=r"no source answered: .*it answered 503"):
        retry_if_all_is_down([DOWN, GONE])
