"""The results of a batch as one long file, read from the record page by page."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from services.api.batch_schemas import BatchResult
from services.core.errors import StoreUnavailableError
from services.core.runs import batch_models
from services.core.runs.batches import BatchRecord

PAGE: Final = 100
OUTAGE_PAUSE_S: Final = 1.0
MAX_OUTAGE_PAUSES: Final = 30
"""Then the connection is cut, in the middle: a file that ended well would look complete."""
FIRST_COLUMNS: Final = (
    "row",
    "run_id",
    "state",
    "cost_usd",
    "failure.reason",
    "failure.step",
    "failure.message",
)
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


class ResultFormat(StrEnum):
    """How results are written."""

    NDJSON = "ndjson"
    CSV = "csv"

    @property
    def media_type(self) -> str:
        """What the file is."""
        return "text/csv" if self is ResultFormat.CSV else "application/x-ndjson"


async def write_ndjson(record: BatchRecord, batch_id: UUID) -> AsyncIterator[str]:
    """A line for each run, in the order of the rows."""
    async for page in _pages(record, batch_id):
        yield "".join(
            f"{BatchResult.model_validate(result).model_dump_json()}\n" for result in page
        )


async def write_csv(
    record: BatchRecord, batch_id: UUID, output_names: Sequence[str]
) -> AsyncIterator[str]:
    """A row for each run, with a column for each member of the output; what is nested is JSON.

    Args:
        record: Where results are.
        batch_id: The batch.
        output_names: The members that outputs are known to have; what there is besides is added.
    """
    found = await record.list_output_keys(batch_id)
    names = list(dict.fromkeys((*output_names, *found)))
    yield _csv_lines([[*FIRST_COLUMNS, *(f"output.{name}" for name in names)]])
    async for page in _pages(record, batch_id):
        yield _csv_lines([_cells(result, names) for result in page])


async def _pages(
    record: BatchRecord, batch_id: UUID
) -> AsyncIterator[Sequence[batch_models.BatchResult]]:
    after, pauses = 0, 0
    while True:
        try:
            page = await record.list_results(batch_id, after=after, limit=PAGE)
        except StoreUnavailableError:
            pauses += 1
            if pauses > MAX_OUTAGE_PAUSES:
                raise
            await asyncio.sleep(OUTAGE_PAUSE_S)
            continue
        if page:
            yield page
            after, pauses = page[-1].row, 0
        if len(page) < PAGE:
            return


def _cells(result: batch_models.BatchResult, names: Sequence[str]) -> list[object]:
    failure, output = result.failure, result.output or {}
    about_failure = (failure.reason, failure.step, failure.message) if failure else (None,) * 3
    own = (result.row, result.run_id, result.state, result.cost_usd, *about_failure)
    return [*own, *(output.get(name) for name in names)]


def _csv_lines(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> object:
    """A cell that no spreadsheet takes for a formula: text is foreign, and may have been written to be one."""
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
