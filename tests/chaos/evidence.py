"""What a cell left behind: in the record, and in the simulator's ledger."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import httpx

from tests.chaos.stack import Addresses, Stack

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
STEP_EVENTS = frozenset({"step.started", "step.succeeded", "step.retrying", "step.waiting"})
FINAL_EVENTS = frozenset({"run.succeeded", "run.failed", "run.cancelled"})


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run in the record."""

    seq: int
    type: str
    at: float
    step: str | None
    replay: int | None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run in the record."""

    id: str
    key: str
    pipeline: str
    state: str
    reason: str | None
    crashes: int
    created_at: float
    events: tuple[Event, ...]
    emails: int

    @property
    def is_final(self) -> bool:
        """It has ended."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class Calls:
    """Paid calls for one prompt of one run."""

    run_id: str
    prompt: str
    started: int
    answered: int


PACE: Final = {"latency_ms": 250, "chunk_delay_ms": 0}
"""How long a call takes. In one piece, because the machine has better things to do than to send pieces."""
RUNS = """
    SELECT id, idempotency_key AS key, pipeline, state, failure->>'reason' AS reason, crashes,
           extract(epoch FROM created_at)::float8 AS created_at,
           (SELECT count(*) FROM emails WHERE emails.run_id = runs.id) AS emails,
           (SELECT coalesce(json_agg(json_build_array(
                seq, type, extract(epoch FROM at)::float8, data->>'step', (data->>'replay')::int
            ) ORDER BY seq), '[]') FROM events WHERE events.run_id = runs.id) AS events
    FROM runs WHERE idempotency_key LIKE '{prefix}-%' ORDER BY id
"""
"""Runs with their events and emails, all of one moment."""
UNFINISHED = """
    SELECT count(*) AS count FROM runs
    WHERE idempotency_key LIKE '{prefix}-%' AND state IN ('queued', 'running')
"""
RUNNING_STEPS = """
    SELECT count(*) AS count FROM steps JOIN runs ON runs.id = steps.run_id
    WHERE runs.state = 'running' AND steps.state = 'running'
"""


def read_runs(stack: Stack, prefix: str) -> dict[str, RecordedRun]:
    """Every run of a cell, by id."""
    rows = stack.sql(RUNS.format(prefix=prefix))
    return {
        row["id"]: RecordedRun(**row | {"events": tuple(Event(*event) for event in row["events"])})
        for row in rows
    }


def most_executed(runs: Iterable[RecordedRun], begin: float, end: float) -> int:
    """The most steps that were being executed at one moment of a span of time; each has one call open at most.

    A step is executed from its start until the run's next event of a step or an end.
    """
    changes: list[tuple[float, int]] = []
    for run in runs:
        steps = [event for event in run.events if event.type in STEP_EVENTS | FINAL_EVENTS]
        for event, following in zip(steps, [*steps[1:], None], strict=True):
            ended_at = following.at if following else math.inf
            if event.type == "step.started" and event.at <= end and ended_at >= begin:
                changes += [(max(event.at, begin), 1), (ended_at, -1)]
    # What begins at the moment at which something else ends counts besides it.
    changes.sort(key=lambda change: (change[0], -change[1]))
    return max(accumulate(change for _, change in changes), default=0)


def count_unfinished(stack: Stack, prefix: str) -> int:
    """Runs of a cell that have not ended."""
    return int(stack.sql(UNFINISHED.format(prefix=prefix))[0]["count"])


def count_running_steps(stack: Stack) -> int:
    """Steps that are being executed, as far as the record knows."""
    return int(stack.sql(RUNNING_STEPS)[0]["count"])


class Ledger:
    """The simulator, from its back: what it was asked, and how it is made to fail."""

    def __init__(self, addresses: Addresses) -> None:
        transport = httpx.HTTPTransport(retries=5)
        self._http = httpx.Client(base_url=addresses.simulator_url, timeout=30, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def clear(self) -> None:
        """Forget calls and take all faults back."""
        self._http.delete("/admin/requests").raise_for_status()
        self.clear_faults()

    def clear_faults(self) -> None:
        """Take all faults back; calls have the suite's pace."""
        self._http.delete("/admin/faults").raise_for_status()
        self._put(**PACE)

    def add_fault(self, **rule: Any) -> None:
        """Make calls fail; those that do not have the suite's pace. One at a time: it replaces the one before."""
        self._http.delete("/admin/faults").raise_for_status()
        self._put(**PACE | rule)
        self._put(**PACE)

    def _put(self, **rule: Any) -> None:
        self._http.put("/admin/faults", json=rule).raise_for_status()

    def calls(self) -> list[Calls]:
        """Paid calls since the last clear()."""
        rows = self._http.get("/admin/calls").raise_for_status().json()
        return [
            Calls(row["run_id"], row["prompt_sha256"], row["started"], row["answered"])
            for row in rows
        ]
