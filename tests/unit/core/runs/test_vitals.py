"""How often the record is counted."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
from sqlalchemy import Executable

from services.core.db import Database
from services.core.runs import vitals
from services.core.runs.vitals import COUNT_RUNS, COUNT_STEPS, Vitals


class SlowRecord:
    """A record in which each statement takes a while, by a clock of its own."""

    def __init__(self, statement_s: float) -> None:
        self.now_s = 1000.0
        self.counts = 0
        self._statement_s = statement_s

    async def fetch(self, statement: Executable, _parameters: object = None) -> Sequence[Any]:
        """Pass the time; an empty record."""
        self.now_s += self._statement_s
        self.counts += statement is COUNT_RUNS
        return [] if statement in (COUNT_RUNS, COUNT_STEPS) else [_Zeros()]


class _Zeros:
    """A row in which all is 0."""

    def __getattr__(self, _name: str) -> int:
        return 0


@pytest.mark.parametrize(("statement_s", "age_s"), [(0.001, 5), (0.5, 40), (1.0, 80)])
async def test_a_deep_record_is_counted_less_often(
    statement_s: float, age_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting takes a twentieth of the time at most: four statements of a second each, every 80 seconds."""
    record = SlowRecord(statement_s)
    monkeypatch.setattr(vitals, "monotonic_s", lambda: record.now_s)
    database = cast("Database", record)
    subject = Vitals(database, counting=database, lease_ttl_s=30, rehint_after_s=10)
    began_s = record.now_s
    first = await subject.get_totals()

    record.now_s = began_s + age_s - 0.1
    assert first is await subject.get_totals()
    record.now_s = began_s + age_s + 0.1
    assert first is not await subject.get_totals()
    assert 2 == record.counts
