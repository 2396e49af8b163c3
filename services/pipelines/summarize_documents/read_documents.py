"""Step 1: read the documents that are not given as text."""

import asyncio

from services.core.errors import StepInputError
from services.pipelines.definition import StepContext
from services.pipelines.sources import (
    SourceReading,
    SourceStatus,
    clean_text,
    clean_title,
    read_source,
    reasons,
    retry_if_all_is_down,
)
from services.pipelines.summarize_documents.schemas import (
    MAX_TEXT_CHARS,
    Document,
    GivenDocument,
    LinkedDocument,
    Progress,
    SummarizeInput,
)

MAX_PAGES_CHARS = 2_000_000
"""Of all pages of a run together: a bound on its checkpoints, and on its calls (about 90)."""


async def read_documents(given: SummarizeInput, context: StepContext) -> Progress:
    """Read all pages at once; one that cannot be read is noted and left out.

    Raises:
        StepTransientError: Nothing could be read, and something did not answer.
        StepInputError: Nothing could be read, and waiting would not help.
    """
    readings = await asyncio.gather(*(_read(document, context) for document in given.documents))
    retry_if_all_is_down(readings)
    if not any(reading.status is SourceStatus.FOUND for reading in readings):
        raise StepInputError(f"no document could be read: {reasons(readings)}")
    documents = tuple(
        _document(number, document, reading)
        for number, (document, reading) in enumerate(
            zip(given.documents, readings, strict=True), start=1
        )
    )
    max_chars = min(MAX_TEXT_CHARS, MAX_PAGES_CHARS // len(documents))
    return Progress(
        focus=given.focus,
        length=given.length,
        documents=tuple(_cut(document, max_chars) for document in documents),
    )


async def _read(document: LinkedDocument | GivenDocument, context: StepContext) -> SourceReading:
    if isinstance(document, LinkedDocument):
        return await read_source(document.url, context)
    text = clean_text(document.text)
    if not text.strip():
        return SourceReading("text", SourceStatus.NOT_FOUND, "nothing in it can be seen")
    title = clean_title(document.title)
    return SourceReading("text", SourceStatus.FOUND, title=title, text=text)


def _document(
    number: int, document: LinkedDocument | GivenDocument, reading: SourceReading
) -> Document:
    return Document(
        id=number,
        url=document.url if isinstance(document, LinkedDocument) else None,
        title=reading.title,
        status=reading.status,
        reason=reading.reason,
        text=reading.text,
    )


def _cut(document: Document, max_chars: int) -> Document:
    """The document with so much of its page; a given text is whole, the request's size bounds it."""
    if document.url is None or len(document.text) <= max_chars:
        return document
    return document.model_copy(update={"text": document.text[:max_chars], "is_cut": True})
