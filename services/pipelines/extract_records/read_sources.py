"""Step 1: read the pages."""

import asyncio

from services.core.errors import StepInputError
from services.pipelines.definition import StepContext
from services.pipelines.extract_records.schemas import (
    MAX_TEXT_CHARS,
    ExtractInput,
    Source,
    Sources,
)
from services.pipelines.sources import (
    SourceReading,
    SourceStatus,
    clean_text,
    read_source,
    reasons,
    retry_if_all_is_down,
)

MAX_PAGES_CHARS = 500_000
"""Of all pages of a run together: about 40 calls."""


async def read_sources(given: ExtractInput, context: StepContext) -> Sources:
    """Read all pages at once; one that cannot be read is noted and left out.

    Raises:
        StepTransientError: Nothing could be read, and a page did not answer.
        StepInputError: Nothing could be read, and waiting would not help.
    """
    pages = await asyncio.gather(*(read_source(url, context) for url in given.urls))
    readings = [*pages, *map(_given, given.texts)]
    retry_if_all_is_down(readings)
    if not any(reading.status is SourceStatus.FOUND for reading in readings):
        raise StepInputError(f"no source could be read: {reasons(readings)}")
    max_chars = min(MAX_TEXT_CHARS, MAX_PAGES_CHARS // max(1, len(pages)))
    return Sources(
        record_schema=given.record_schema,
        instructions=given.instructions,
        sources=tuple(
            _source(number, reading, max_chars if number <= len(pages) else None)
            for number, reading in enumerate(readings, start=1)
        ),
    )


def _given(text: str) -> SourceReading:
    cleaned = clean_text(text)
    if not cleaned.strip():
        return SourceReading("text", SourceStatus.NOT_FOUND, "nothing in it can be seen")
    return SourceReading("text", SourceStatus.FOUND, text=cleaned)


def _source(number: int, reading: SourceReading, max_chars: int | None) -> Source:
    """The source, with so much of a page; a given text is whole, the request's size bounds it."""
    return Source(
        id=number,
        url=None if max_chars is None else reading.url,
        title=reading.title,
        status=reading.status,
        reason=reading.reason,
        is_cut=max_chars is not None and len(reading.text) > max_chars,
        text=reading.text[:max_chars],
    )
