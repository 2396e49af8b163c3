"""What is to be summarized, what goes from step to step, and what comes out."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.pipelines.fields import TEXT_PATTERN, Line, SourceUrl
from services.pipelines.sources import SourceStatus

MAX_DOCUMENTS = 50
MAX_TEXT_CHARS = 200_000


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Length(StrEnum):
    """How long a summary is."""

    SHORT = "short"
    """Two or three sentences."""
    MEDIUM = "medium"
    """One or two paragraphs."""
    LONG = "long"
    """Up to a page."""


class LinkedDocument(_Model):
    """A document on the web."""

    url: SourceUrl
    """The page to read, http or https. Private addresses are refused."""


class GivenDocument(_Model):
    """A document whose text is given."""

    text: Annotated[
        str,
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=MAX_TEXT_CHARS, pattern=TEXT_PATTERN
        ),
    ]
    """At most 200,000 characters."""
    title: Line | None = None


class SummarizeInput(_Model):
    """Documents to summarize."""

    documents: Annotated[
        tuple[LinkedDocument | GivenDocument, ...], Field(min_length=1, max_length=MAX_DOCUMENTS)
    ]
    """At least 1 and at most 50, each with a `url` or a `text`. Their ids are 1, 2, 3 … in this order."""
    focus: Line | None = None
    """What the summaries are to be about, such as `What do they say about costs?`."""
    length: Length = Length.MEDIUM
    """Of each summary: `short` (sentences), `medium` (paragraphs) or `long` (up to a page)."""


class Document(_Model):
    """A document on its way: its text goes when its summary is there."""

    id: int
    url: str | None
    title: str | None
    status: SourceStatus
    reason: str | None = None
    is_cut: bool = False
    text: str = ""
    summary: str | None = None


class Progress(_Model):
    """What each step gives the next: which documents are read, and which are summarized."""

    focus: str | None
    length: Length
    documents: tuple[Document, ...]
    simulated: bool = False
    model: str | None = None
    """None before the first call."""


class DocumentSummary(_Model):
    """A document in the output."""

    id: int
    """Its place in the input, from 1."""
    url: str | None
    """None where the text was given."""
    title: str | None
    status: SourceStatus
    """`found`, `not_found` (refused, absent or without text) or `unreachable` (it did not answer)."""
    reason: str | None
    """Why it was not found."""
    is_cut: bool
    """The page was longer than what is read of it; its end is not in the summary."""
    summary: str | None
    """None where it was not found."""
    cited: bool
    """The summary of all draws on it."""


class DocumentsSummary(_Model):
    """The summary of all documents, and of each."""

    summary: str
    documents: tuple[DocumentSummary, ...]
    simulated: bool
    """True if the simulator wrote it, not Claude."""
    model: str
