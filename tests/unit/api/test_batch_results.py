"""Results as files: whole in spite of an outage, and harmless in a spreadsheet."""

import csv
import io
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from services.api import batch_results
from services.api.batch_results import PAGE, write_csv, write_ndjson
from services.core.errors import StoreUnavailableError
from services.core.runs.batch_models import BatchResult
from services.core.runs.states import RunState
from tests.unit.api.test_batch_json import VALUES

OUTPUTS = st.lists(
    st.none()
    | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), VALUES, max_size=3),
    max_size=5,
)


class Results:
    """A record that has these outputs, and is away as often as told."""

    def __init__(self, *outputs: dict[str, Any] | None, outages: int = 0) -> None:
        self.outages = outages
        self.asked_after: list[int] = []
        self.results = [
            BatchResult(row, uuid7(), RunState.SUCCEEDED, output, None, Decimal("0.1"))
            for row, output in enumerate(outputs, 1)
        ]

    async def list_results(
        self, batch_id: UUID, *, after: int, limit: int = 100
    ) -> list[BatchResult]:
        """The next page, or nothing for now."""
        if after and self.outages:
            self.outages -= 1
            raise StoreUnavailableError
        self.asked_after.append(after)
        return [result for result in self.results if result.row > after][:limit]

    async def list_output_keys(self, batch_id: UUID) -> list[str]:
        """What outputs have."""
        return sorted({name for result in self.results for name in result.output or ()})


async def text_of(lines: Any) -> str:
    """A whole file."""
    return "".join([line async for line in lines])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_results, "OUTAGE_PAUSE_S", 0)


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
async def test_every_row_is_written_once_in_spite_of_an_outage(count: int) -> None:
    """The file goes on where it was."""
    record = Results(*[{"n": n} for n in range(1, count + 1)], outages=2)
    text = await text_of(write_ndjson(record, uuid7()))  # type: ignore[arg-type]  # it has what is asked for

    assert [(n, {"n": n}) for n in range(1, count + 1)] == [
        (line["row"], line["output"]) for line in map(json.loads, text.splitlines())
    ]


async def test_a_long_outage_cuts_the_file() -> None:
    """A file that ended well would look complete."""
    record = Results(*[{}] * (PAGE + 1), outages=1000)

    with pytest.raises(StoreUnavailableError):
        await text_of(write_csv(record, uuid7(), []))  # type: ignore[arg-type]  # it has what is asked for


@given(outputs=OUTPUTS)
async def test_a_table_holds_every_output_and_no_formula(
    outputs: list[dict[str, Any] | None],
) -> None:
    """Text comes back as it was, but for the mark that makes it text; what is nested is JSON."""
    record = Results(*outputs)
    text = await text_of(write_csv(record, uuid7(), ["first"]))  # type: ignore[arg-type]  # it has what is asked for
    header, *rows = csv.reader(io.StringIO(text, newline=""))

    assert header[:7] == list(batch_results.FIRST_COLUMNS)
    assert len(rows) == len(outputs)
    for output, row in zip(outputs, rows, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in row)
        for name, value in (output or {}).items():
            cell = cells[f"output.{name}"]
            if isinstance(value, str):
                assert cell.removeprefix("'") == value or cell == value
                assert not cell.startswith("-")
            elif isinstance(value, dict | list | bool):
                assert json.loads(cell) == value
            else:
                assert cell == ("" if value is None else str(value))
