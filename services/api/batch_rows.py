"""The rows of a batch: read in any of its formats, held to the pipeline's input, made ready for the record."""

import codecs
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from services.api.errors import MAX_FIELD_ERRORS, InvalidRequestError
from services.api.json_values import check_storable
from services.api.slices import Slices
from services.api.validation import FieldError, describe_validation
from services.core.clock import monotonic_s
from services.core.runs.batch_models import BatchChunk, BatchRow, RowError
from services.core.runs.encoding import encode_json

MAX_ROWS: Final = 10_000
MAX_ROW_BYTES: Final = 1_048_576
"""Of one input: as much as a whole request for a single run may have."""
MAX_ROW_ERRORS: Final = 10
"""Errors kept of one row; the rest is as wrong."""
CHUNK_ROWS: Final = 1000
CHUNK_CHARS: Final = 4_000_000
CHUNK_S: Final = 1.0
"""Seconds after which a chunk is written as it is: PostgreSQL ends transactions that idle for some seconds."""


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row as it was sent."""

    number: int
    """1, 2, 3, ... as the client sent."""
    value: object


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that cannot be read at all."""

    number: int
    message: str
    field: str = ""
    """JSON pointer into the input; empty for all of it."""


Rows = Iterator[ReadRow | UnreadableRow]


def too_many_rows() -> InvalidRequestError:
    """The refusal of a batch with more rows than there may be."""
    message = f"A batch may have {MAX_ROWS:,} rows"
    return InvalidRequestError([FieldError("body", "", message)])


def read_ndjson(body: bytes) -> Rows:
    """An input per line; empty lines are counted, and passed over.

    Raises:
        InvalidRequestError: There are too many lines.
    """
    for number, line in enumerate(_lines(body.removeprefix(codecs.BOM_UTF8)), start=1):
        if number > MAX_ROWS:
            raise too_many_rows()
        if len(line) > MAX_ROW_BYTES:
            yield UnreadableRow(number, f"The row may have {MAX_ROW_BYTES:,} bytes")
        elif line.strip():
            yield _read_json(number, line)


def read_spans(text: str, spans: Sequence[tuple[int, int]]) -> Rows:
    """Inputs of a JSON array, of which it is known where each of them is."""
    for number, (start, end) in enumerate(spans, start=1):
        yield _read_json(number, text[start:end])


def _lines(body: bytes) -> Iterator[bytes]:
    """The lines of a body one by one: splitting it at once takes long, and much memory."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        yield body[start:end]
        start = end + 1


def _read_json(number: int, text: bytes | str) -> ReadRow | UnreadableRow:
    try:
        return ReadRow(number, json.loads(text if isinstance(text, str) else text.decode()))
    except (ValueError, RecursionError):
        return UnreadableRow(number, "The row cannot be read as JSON")


@dataclass(slots=True)
class _Chunk:
    """Rows that are ready for the record, and what is wrong with others."""

    rows: list[BatchRow] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    chars: int = 0
    began_s: float = field(default_factory=monotonic_s)

    def add(self, row: BatchRow) -> None:
        self.rows.append(row)
        self.chars += len(row.input)

    @property
    def is_full(self) -> bool:
        """Whether it is time to write it."""
        is_large = len(self.rows) >= CHUNK_ROWS or self.chars >= CHUNK_CHARS
        return is_large or monotonic_s() - self.began_s >= CHUNK_S


async def make_chunks(rows: Rows, input_type: type[BaseModel]) -> AsyncGenerator[BatchChunk, None]:
    """The rows in chunks for the record; gives way to others every few milliseconds.

    Args:
        rows: As they were sent; an error of theirs ends it.
        input_type: What a good row is.

    Raises:
        InvalidRequestError: There is no row, or not one of them is good.
    """
    slices, chunk, has_good = Slices(), _Chunk(), False
    first_errors: list[RowError] = []
    for row in rows:
        _sort(row, input_type, chunk)
        has_good = has_good or bool(chunk.rows)
        if chunk.is_full:
            yield BatchChunk(chunk.rows, chunk.errors)
            first_errors += chunk.errors[: MAX_FIELD_ERRORS - len(first_errors)]
            chunk = _Chunk()
        await slices.give_way()
    if not has_good:
        raise _no_good_row([*first_errors, *chunk.errors])
    yield BatchChunk(chunk.rows, chunk.errors)


def _sort(row: ReadRow | UnreadableRow, input_type: type[BaseModel], chunk: _Chunk) -> None:
    """Put a row where it belongs."""
    if isinstance(row, UnreadableRow):
        chunk.errors.append(RowError(row.number, 1, row.field, row.message))
        return
    if faults := _faults_of(row.value, input_type):
        chunk.errors += [
            RowError(row.number, number, fault.field, fault.message)
            for number, fault in enumerate(faults[:MAX_ROW_ERRORS], start=1)
        ]
        return
    chunk.add(BatchRow(row.number, encode_json(row.value)))


def _faults_of(value: Any, input_type: type[BaseModel]) -> list[FieldError]:
    """What is wrong with an input; pointers are into it."""
    if not isinstance(value, dict):
        return [FieldError("body", "", "Input should be an object")]
    try:
        check_storable(value)
        input_type.model_validate(value)
    except PydanticCustomError as error:
        return [FieldError("body", "", error.message())]
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        located = [{**item, "loc": ("body", *item["loc"])} for item in found]
        return describe_validation(located, body=value)
    return []


def _no_good_row(errors: Sequence[RowError]) -> InvalidRequestError:
    """The refusal of a batch of which nothing could run."""
    if not errors:
        return InvalidRequestError([FieldError("body", "", "A batch needs at least one row")])
    return InvalidRequestError(
        [FieldError("body", error.field, error.message, row=error.row) for error in errors]
    )
