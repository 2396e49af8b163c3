"""Step 2: read the given sources and, for `research`, the recipient's papers on arXiv.

A source that cannot be read never fails the run: it is noted with its reason, and what it might
have said is left out. One case is retried instead: something must be found out, nothing at all was
found, and a source did not answer. Then an outage, not the world, is why the email would be empty.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.definition import StepContext
from services.pipelines.outreach_email.arxiv import author_query, choose_papers, parse_papers
from services.pipelines.outreach_email.placeholders import without_marks
from services.pipelines.outreach_email.schemas import (
    Brief,
    Findings,
    Recipient,
    Source,
    TemplateType,
)
from services.pipelines.sources import (
    SourceReading,
    SourceStatus,
    clean_text,
    clean_title,
    read_source,
    retry_if_all_is_down,
)

MAX_SOURCE_CHARS = 8000
"""Per source; ten such sources are about 20,000 tokens of prompt."""


async def research(brief: Brief, context: StepContext) -> Findings:
    """Read all sources at once; note which were found and why the others were not.

    Raises:
        StepTransientError: Something must be found out, nothing was found, and at least one source
            did not answer.
    """
    terms = [term for gap in brief.gaps for term in gap.search_terms]
    urls = dict.fromkeys(brief.input.sources)
    pages = [_read_page(url, terms, context) for url in urls]
    papers = []
    if brief.input.template_type is TemplateType.RESEARCH:
        papers.append(_read_arxiv(brief.input.recipient, context))
    groups = await asyncio.gather(*pages, *papers)
    readings = [reading for group in groups for reading in group]
    if brief.gaps:
        retry_if_all_is_down(readings)
    return Findings(brief=brief, sources=_numbered(readings))


def relevant_text(text: str, terms: Iterable[str], *, max_chars: int = MAX_SOURCE_CHARS) -> str:
    """The text if it is short enough, else the paragraphs that hold most search terms, in order."""
    if len(text) <= max_chars:
        return text
    wanted = [term.casefold() for term in terms]
    paragraphs = [line.strip()[:max_chars] for line in text.splitlines() if line.strip()]
    scores = [sum(term in paragraph.casefold() for term in wanted) for paragraph in paragraphs]
    chosen, left = set(), max_chars
    for index in sorted(range(len(paragraphs)), key=lambda index: (-scores[index], index)):
        if len(paragraphs[index]) <= left:
            chosen.add(index)
            left -= len(paragraphs[index]) + 1
    return "\n".join(paragraphs[index] for index in sorted(chosen))


async def _read_page(url: str, terms: list[str], context: StepContext) -> list[SourceReading]:
    reading = await read_source(url, context)
    title = without_marks(reading.title) if reading.title else None
    return [replace(reading, title=title, text=relevant_text(without_marks(reading.text), terms))]


async def _read_arxiv(recipient: Recipient, context: StepContext) -> list[SourceReading]:
    url = context.arxiv_url
    try:
        feed = await context.web.read_feed(url, author_query(recipient.name))
    except StepInputError as error:
        return [SourceReading(url, SourceStatus.NOT_FOUND, str(error))]
    except StepTransientError as error:
        return [SourceReading(url, SourceStatus.UNREACHABLE, str(error))]
    papers = await asyncio.to_thread(parse_papers, feed)
    chosen = choose_papers(papers, name=recipient.name, interest=recipient.interest)
    if not chosen:
        return [SourceReading(url, SourceStatus.NOT_FOUND, "arXiv lists no paper by that name")]
    return [
        SourceReading(
            paper.url,
            SourceStatus.FOUND,
            title=without_marks(clean_title(paper.title) or ""),
            text=without_marks(clean_text(paper.text))[:MAX_SOURCE_CHARS],
        )
        for paper in chosen
    ]


def _numbered(readings: list[SourceReading]) -> tuple[Source, ...]:
    return tuple(
        Source(
            id=number,
            url=reading.url,
            status=reading.status,
            reason=reading.reason,
            title=reading.title,
            text=reading.text,
        )
        for number, reading in enumerate(readings, start=1)
    )
