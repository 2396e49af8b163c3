"""Reading web pages for a prompt: what each said, or why it said nothing."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.definition import StepContext

MAX_TITLE_CHARS = 300
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
INVISIBLE = re.compile(
    "["
    "\u00ad\u200b\u2060-\u2064\ufeff"  # hyphens and spaces that nobody sees
    "\u202a-\u202e\u2066-\u2069"  # what turns the direction of text round
    "\U000e0000-\U000e007f"  # tags: a whole alphabet without glyphs
    "]"
)
"""Characters that a person who reads the page does not see and a model does.

Joiners (U+200C, U+200D) and direction marks stay: Persian, Hebrew and emoji are written with them.
"""
WIDE_BRACKETS = str.maketrans("\uff1c\ufe64", "<<")
"""Compatibility forms of `<` (Unicode NFKC): taken for what they look like, then escaped like it."""


class SourceStatus(StrEnum):
    """How reading a source went."""

    FOUND = "found"
    NOT_FOUND = "not_found"
    """Refused, absent or without text: another try would not help."""
    UNREACHABLE = "unreachable"
    """It did not answer, or with a server error."""


@dataclass(frozen=True, slots=True)
class SourceReading:
    """What reading a source gave."""

    url: str
    status: SourceStatus
    reason: str | None = None
    title: str | None = None
    text: str = ""


async def read_source(url: str, context: StepContext) -> SourceReading:
    """Read a page; one that cannot be read is noted with its reason."""
    try:
        page = await context.web.read_page(url)
    except StepInputError as error:
        return SourceReading(url, SourceStatus.NOT_FOUND, str(error))
    except StepTransientError as error:
        return SourceReading(url, SourceStatus.UNREACHABLE, str(error))
    text = clean_text(page.text)
    if not text.strip():
        return SourceReading(url, SourceStatus.NOT_FOUND, "the page holds no text")
    return SourceReading(url, SourceStatus.FOUND, title=clean_title(page.title), text=text)


def clean_text(text: str) -> str:
    """Text that can stand in a record and a prompt: nothing in it that a reader cannot see."""
    return INVISIBLE.sub("", CONTROLS.sub(" ", text)).translate(WIDE_BRACKETS)


def clean_title(title: str | None) -> str | None:
    """A title on one line, of bounded length; None where there is none."""
    return " ".join(clean_text(title or "").split())[:MAX_TITLE_CHARS] or None


def retry_if_all_is_down(readings: Iterable[SourceReading]) -> None:
    """Wait for better times if nothing was found and something did not answer.

    Raises:
        StepTransientError: With the reasons of the sources that did not answer.
    """
    given = list(readings)
    down = [reading for reading in given if reading.status is SourceStatus.UNREACHABLE]
    if down and not any(reading.status is SourceStatus.FOUND for reading in given):
        raise StepTransientError(f"no source answered: {reasons(down)}")


def reasons(readings: Iterable[SourceReading]) -> str:
    """Each source with why it was not found, on one line."""
    return "; ".join(f"{reading.url}: {reading.reason}" for reading in readings)
