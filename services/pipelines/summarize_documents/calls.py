"""The two questions to Claude: summarize a text, and make one summary of several."""

from dataclasses import dataclass

from pydantic import BaseModel, Field

from services.core.claude.protocol import ClaudeRequest
from services.core.errors import ClaudeMalformedAnswerError
from services.pipelines.chunks import MAX_CHUNK_BYTES
from services.pipelines.concurrency import MAX_CALLS, map_bounded
from services.pipelines.definition import StepContext
from services.pipelines.fences import Fenced, element, lines, unescape
from services.pipelines.summarize_documents.prompts import PROMPTS
from services.pipelines.summarize_documents.schemas import Document, Length, Progress

MAX_TOKENS = 4096
MAX_SUMMARY_BYTES = MAX_CHUNK_BYTES // 2
"""Two summaries always fit into one question, so combining comes to an end."""
LENGTHS = {
    Length.SHORT: "two or three sentences",
    Length.MEDIUM: "one or two paragraphs",
    Length.LONG: "up to a page",
}


class Summary(BaseModel):
    """Claude's answer for one text."""

    summary: str


class CombinedSummary(BaseModel):
    """Claude's answer for several summaries."""

    summary: str
    document_ids: list[int] = Field(description="Ids of all documents that the summary draws on")


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a document's text."""

    document: Document
    number: int
    """From 1."""
    count: int
    """How many pieces the document has."""
    text: str


@dataclass(frozen=True, slots=True)
class Digest:
    """A summary, and of which documents it is."""

    ids: tuple[int, ...]
    summary: str
    title: str
    model: str
    is_simulated: bool


async def summarize_part(part: Part, progress: Progress, context: StepContext) -> Digest:
    """Summarize one text.

    Raises:
        ClaudeMalformedAnswerError: The summary is empty or endless.
    """
    document = element(
        "document",
        f"\n{part.text}\n",
        id=part.document.id,
        title=part.document.title or "",
        part=part.number,
        parts=part.count,
    )
    request = ClaudeRequest(
        system=PROMPTS.system("summarize"),
        shared=_wish(progress),
        prompt=PROMPTS.user("summarize", document=document),
        max_tokens=MAX_TOKENS,
        allows_fallback=True,
    )
    reply = await context.claude.ask(request, Summary)
    return Digest(
        # A part is known by its number while the parts of one document are combined.
        ids=(part.number,),
        summary=_checked(reply.answer.summary),
        title=part.document.title or "",
        model=reply.model,
        is_simulated=reply.is_simulated,
    )


async def combine_digests(
    digests: list[Digest], progress: Progress, context: StepContext, *, at_once: int = MAX_CALLS
) -> Digest:
    """Make one summary of several, in rounds if they do not fit into one question.

    Raises:
        ClaudeMalformedAnswerError: A summary is empty or endless, or cites what was not given.
    """

    async def combine_group(group: list[Digest]) -> Digest:
        return await _combine(group, progress, context)

    while len(digests) > 1:
        digests = await map_bounded(combine_group, _groups(digests), at_once=at_once)
    return digests[0]


def _groups(digests: list[Digest]) -> list[list[Digest]]:
    """The summaries in groups that fit into a question, in order."""
    groups: list[list[Digest]] = []
    room = 0
    for digest in digests:
        size = len(digest.summary.encode())
        if size > room:
            groups.append([])
            room = MAX_CHUNK_BYTES
        groups[-1].append(digest)
        room -= size
    return groups


async def _combine(group: list[Digest], progress: Progress, context: StepContext) -> Digest:
    """One summary of a group; a group of one is what it is."""
    if len(group) == 1:
        return group[0]
    documents = lines(
        *(
            element(
                "document", digest.summary, ids=" ".join(map(str, digest.ids)), title=digest.title
            )
            for digest in group
        )
    )
    request = ClaudeRequest(
        system=PROMPTS.system("combine"),
        shared=_wish(progress),
        prompt=PROMPTS.user("combine", documents=documents),
        max_tokens=MAX_TOKENS,
        allows_fallback=True,
    )
    reply = await context.claude.ask(request, CombinedSummary)
    return Digest(
        ids=_checked_ids(reply.answer.document_ids, group),
        summary=_checked(reply.answer.summary),
        title="",
        model=reply.model,
        is_simulated=reply.is_simulated,
    )


def _wish(progress: Progress) -> Fenced:
    return lines(
        element("focus", progress.focus or ""), element("length", LENGTHS[progress.length])
    )


def _checked(summary: str) -> str:
    text = unescape(summary).strip()
    if not text:
        raise ClaudeMalformedAnswerError("the summary is empty")
    if len(text.encode()) > MAX_SUMMARY_BYTES:
        raise ClaudeMalformedAnswerError(f"the summary is longer than {MAX_SUMMARY_BYTES} bytes")
    return text


def _checked_ids(cited: list[int], group: list[Digest]) -> tuple[int, ...]:
    given = {number for digest in group for number in digest.ids}
    if unknown := sorted(set(cited) - given):
        raise ClaudeMalformedAnswerError(f"documents {unknown} were not given")
    if not cited:
        raise ClaudeMalformedAnswerError("the summary draws on no document")
    return tuple(sorted(set(cited)))
