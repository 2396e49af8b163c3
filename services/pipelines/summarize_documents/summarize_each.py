"""Steps 2 to 5: summarize each document, a quarter of them in each step.

A step is what a checkpoint keeps, and a pipeline's steps are the same for every run. One step for all documents
would lose all of their summaries with its worker; four lose a quarter. Quarters are of text, not of documents,
and one without a document is over at once.
"""

from services.pipelines.chunks import split_text
from services.pipelines.concurrency import map_bounded
from services.pipelines.definition import StepContext
from services.pipelines.sources import SourceStatus
from services.pipelines.summarize_documents.calls import (
    Digest,
    Part,
    combine_digests,
    summarize_part,
)
from services.pipelines.summarize_documents.schemas import Document, Progress


async def summarize_first_quarter(progress: Progress, context: StepContext) -> Progress:
    """Summarize the first quarter of the text."""
    return await _summarize_share(progress, context, steps_left=4)


async def summarize_second_quarter(progress: Progress, context: StepContext) -> Progress:
    """Summarize the second quarter."""
    return await _summarize_share(progress, context, steps_left=3)


async def summarize_third_quarter(progress: Progress, context: StepContext) -> Progress:
    """Summarize the third quarter."""
    return await _summarize_share(progress, context, steps_left=2)


async def summarize_last_quarter(progress: Progress, context: StepContext) -> Progress:
    """Summarize what is left."""
    return await _summarize_share(progress, context, steps_left=1)


async def _summarize_share(
    progress: Progress, context: StepContext, *, steps_left: int
) -> Progress:
    """Summarize one share of the documents that wait.

    Raises:
        ClaudeMalformedAnswerError: A summary is empty or endless.
    """
    parts = [
        Part(document, number, len(pieces), piece)
        for document in _share(progress.documents, steps_left)
        for pieces in [split_text(document.text)]
        for number, piece in enumerate(pieces, start=1)
    ]

    async def summarize(part: Part) -> Digest:
        return await summarize_part(part, progress, context)

    digests = await map_bounded(summarize, parts)
    by_document: dict[int, list[Digest]] = {}
    for part, digest in zip(parts, digests, strict=True):
        by_document.setdefault(part.document.id, []).append(digest)

    async def combine(digests: list[Digest]) -> Digest:
        return await combine_digests(digests, progress, context, at_once=1)

    combined = await map_bounded(combine, list(by_document.values()))
    return _with_summaries(progress, dict(zip(by_document, combined, strict=True)))


def _share(documents: tuple[Document, ...], steps_left: int) -> list[Document]:
    """The next documents that wait, until they hold their share of the text that waits."""
    waiting = [
        document
        for document in documents
        if document.status is SourceStatus.FOUND and document.summary is None
    ]
    wanted = sum(len(document.text) for document in waiting) / steps_left
    share = []
    for document in waiting:
        if wanted <= 0:
            break
        share.append(document)
        wanted -= len(document.text)
    return share


def _with_summaries(progress: Progress, digests: dict[int, Digest]) -> Progress:
    if not digests:
        return progress
    documents = tuple(
        document.model_copy(update={"summary": digests[document.id].summary, "text": ""})
        if document.id in digests
        else document
        for document in progress.documents
    )
    last = list(digests.values())[-1]
    return progress.model_copy(
        update={"documents": documents, "simulated": last.is_simulated, "model": last.model}
    )
