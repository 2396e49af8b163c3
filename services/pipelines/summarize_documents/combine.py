"""Step 6: one summary of all, and which documents it draws on."""

from services.pipelines.definition import StepContext
from services.pipelines.summarize_documents.calls import Digest, combine_digests
from services.pipelines.summarize_documents.schemas import (
    Document,
    DocumentsSummary,
    DocumentSummary,
    Progress,
)


async def combine(progress: Progress, context: StepContext) -> DocumentsSummary:
    """Combine the documents' summaries; a single one is the summary of all.

    Raises:
        ClaudeMalformedAnswerError: The summary is empty or endless, or cites what was not given.
    """
    digests = [
        Digest(
            ids=(document.id,),
            summary=document.summary,
            title=document.title or "",
            model=progress.model or "",
            is_simulated=progress.simulated,
        )
        for document in progress.documents
        if document.summary is not None
    ]
    whole = await combine_digests(digests, progress, context)
    return DocumentsSummary(
        summary=whole.summary,
        documents=tuple(
            _in_output(document, is_cited=document.id in whole.ids)
            for document in progress.documents
        ),
        simulated=whole.is_simulated,
        model=whole.model,
    )


def _in_output(document: Document, *, is_cited: bool) -> DocumentSummary:
    return DocumentSummary(cited=is_cited, **document.model_dump(exclude={"text"}))
