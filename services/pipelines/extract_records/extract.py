"""Step 2: Claude extracts the records of each source, and corrects those that do not fit.

Each question holds one source, or one part of a long one: what a page says can spoil its own records and no others.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from services.core.claude.protocol import ClaudeReply, ClaudeRequest, Truncation
from services.core.errors import ClaudeMalformedAnswerError
from services.pipelines.chunks import split_text
from services.pipelines.concurrency import map_bounded
from services.pipelines.definition import StepContext
from services.pipelines.extract_records.answer import Records, answer_type_for
from services.pipelines.extract_records.prompts import PROMPTS
from services.pipelines.extract_records.record_schema import RecordSchema
from services.pipelines.extract_records.schemas import (
    ExtractedRecord,
    ExtractedRecords,
    RejectedRecord,
    Source,
    SourceNote,
    Sources,
)
from services.pipelines.fences import Fenced, element, lines, section, unescape
from services.pipelines.sources import SourceStatus

MAX_TOKENS = 16_384
"""A longer list of records is continued."""
MAX_REPAIRS = 2
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one question is about."""

    source_id: int
    document: Fenced


@dataclass(slots=True)
class _Yield:
    """What came of one part."""

    records: list[ExtractedRecord] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    simulated: bool = False
    model: str = ""


async def extract(sources: Sources, context: StepContext) -> ExtractedRecords:
    """Extract the records of all sources.

    Raises:
        ClaudeMalformedAnswerError: There are records, and not one of them fits the schema.
    """
    extraction = _Extraction(sources, context)
    parts = [part for source in sources.sources for part in _parts(source)]
    yields = await map_bounded(extraction.extract_part, parts)
    records = tuple(record for each in yields for record in each.records)
    rejected = tuple(record for each in yields for record in each.rejected)
    if rejected and not records:
        count = len(rejected)
        raise ClaudeMalformedAnswerError(f"none of {count} records fits, after {MAX_REPAIRS} tries")
    return ExtractedRecords(
        records=records,
        rejected=rejected,
        sources=tuple(_note(source, records) for source in sources.sources),
        simulated=yields[-1].simulated,
        model=yields[-1].model,
    )


class _Extraction:
    """The questions of one try of the step."""

    def __init__(self, sources: Sources, context: StepContext) -> None:
        self._schema = RecordSchema(sources.record_schema)
        self._answer_type = answer_type_for(self._schema.for_claude)
        self._instructions = element("instructions", sources.instructions)
        self._context = context

    async def extract_part(self, part: _Part) -> _Yield:
        """Ask for the part's records, then for those that do not fit once more, at most twice."""
        found = _Yield()
        self._sort(part, await self._ask(found, "extract", document=part.document), found)
        for _ in range(MAX_REPAIRS):
            if not found.rejected:
                break
            rejected = lines(*map(_rejected_element, found.rejected))
            repaired = await self._ask(found, "repair", document=part.document, rejected=rejected)
            asked, found.rejected = len(found.rejected), []
            fitting = [each.record for each in found.records]
            news = [record for record in repaired if record not in fitting]
            self._sort(part, news[:asked], found)
        return found

    async def _ask(self, found: _Yield, prompt: str, **material: Fenced) -> list[Record]:
        request = ClaudeRequest(
            system=PROMPTS.system(prompt),
            shared=self._instructions,
            prompt=PROMPTS.user(prompt, **material),
            max_tokens=MAX_TOKENS,
            on_truncation=Truncation.CONTINUE,
            allows_fallback=True,
        )
        reply: ClaudeReply[Records] = await self._context.claude.ask(request, self._answer_type)
        found.model, found.simulated = reply.model, reply.is_simulated
        return [_unescaped(record) for record in reply.answer.records]

    def _sort(self, part: _Part, records: list[Record], found: _Yield) -> None:
        """Put each record to those that fit or to those that do not."""
        for record in records:
            if problems := self._schema.problems_of(record):
                found.rejected.append(
                    RejectedRecord(source_id=part.source_id, record=record, errors=tuple(problems))
                )
            else:
                found.records.append(ExtractedRecord(source_id=part.source_id, record=record))


def _parts(source: Source) -> list[_Part]:
    pieces = split_text(source.text) if source.status is SourceStatus.FOUND else []
    return [
        _Part(
            source.id,
            element(
                "document",
                f"\n{piece}\n",
                id=source.id,
                title=source.title or "",
                part=number,
                parts=len(pieces),
            ),
        )
        for number, piece in enumerate(pieces, start=1)
    ]


def _rejected_element(rejected: RejectedRecord) -> Fenced:
    """A record and its errors; these quote the record, which quotes the page."""
    record = json.dumps(rejected.record, ensure_ascii=False)
    return section(
        "rejected", element("record", record), element("error", "; ".join(rejected.errors))
    )


def _unescaped(value: Any) -> Any:
    """The value with `<` where Claude copied the prompt's `&lt;`."""
    if isinstance(value, str):
        return unescape(value)
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    return value


def _note(source: Source, records: tuple[ExtractedRecord, ...]) -> SourceNote:
    count = sum(record.source_id == source.id for record in records)
    return SourceNote(records=count, **source.model_dump(exclude={"text"}))
