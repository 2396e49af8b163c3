"""Reading runs and their events."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from uuid import UUID

from services.core.db import Database, Statement
from services.core.errors import RunNotFoundError
from services.core.pool import Row
from services.core.runs.encoding import (
    decode_id_cursor,
    encode_cursor,
    encode_json,
    storable_text,
)
from services.core.runs.models import Event, Failure, Json, Page, PastAttempt, Run, StepRecord
from services.core.runs.sql import statement
from services.core.runs.states import EventType, FailureReason, RunMode, RunState, StepState
from services.core.usage import Usage

STEPS_OF_RUN = """
    (SELECT jsonb_agg(to_jsonb(steps) || jsonb_build_object('cost_usd', steps.cost_usd::text)
                      ORDER BY position)
       FROM steps WHERE steps.run_id = runs.id)
"""

# A run and its steps in one statement, so that both are of the same moment.
RUN_WITH_STEPS = f"SELECT runs.*, {STEPS_OF_RUN} AS steps FROM runs"  # noqa: S608 - a constant

GET_RUN = statement(f"{RUN_WITH_STEPS} WHERE id = :run_id AND key_id = :key_id")

# Ids are UUIDv7: their order is that of their creation.
LIST_RUNS_IN_STATE = """
    (SELECT * FROM runs
      WHERE key_id = :key_id AND state {state} {batch}
        AND (CAST(:pipeline AS text) IS NULL OR pipeline = :pipeline)
        AND (CAST(:reason AS text) IS NULL OR failure ->> 'reason' = :reason)
        AND (CAST(:before AS uuid) IS NULL OR id < :before)
      ORDER BY id DESC
      LIMIT CAST(:up_to AS bigint))
"""


@cache
def list_statement(state: RunState | None, *, has_batch: bool) -> Statement:
    """The statement that lists runs: conditions with an index of their own are in it as text.

    A key's runs are in two indexes: those that run, and all others.
    """
    conditions = ["<> :run_running", "= :run_running"] if state is None else [f"= :run_{state}"]
    batch = "AND batch_id = CAST(:batch_id AS uuid)" if has_batch else ""
    lists = [LIST_RUNS_IN_STATE.format(state=one, batch=batch) for one in conditions]
    return statement(
        f"""
        SELECT runs.*, {STEPS_OF_RUN} AS steps FROM ({"UNION ALL".join(lists)}) AS runs
         ORDER BY id DESC
         LIMIT CAST(:up_to AS bigint)
        """  # noqa: S608 - constants of this module
    )


# A row also for a run that was never replayed: without a number.
LIST_HISTORY = statement(
    """
    SELECT run_history.*
      FROM runs LEFT JOIN run_history ON run_history.run_id = runs.id
     WHERE runs.id = :run_id AND runs.key_id = :key_id
     ORDER BY number
    """
)

LIST_EVENTS = statement(
    """
    SELECT events.*
      FROM json_to_recordset(CAST(:after AS json)) AS item (run_id uuid, seq integer)
      JOIN events ON events.run_id = item.run_id AND events.seq > item.seq
     ORDER BY events.run_id, events.seq
     LIMIT CAST(:up_to AS bigint)
    """
)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are meant: those that fit everything that is given."""

    state: RunState | None = None
    pipeline: str | None = None
    reason: FailureReason | None = None
    batch_id: UUID | None = None


class RunReader:
    """Reads runs. RunStore says what each method promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_run(self, key_id: UUID, run_id: UUID) -> Run:
        """One run of a key."""
        rows = await self._database.fetch(GET_RUN, {"key_id": key_id, "run_id": run_id})
        if not rows:
            raise RunNotFoundError
        return _run(rows[0])

    async def list_runs(
        self,
        key_id: UUID,
        wanted: RunFilter,
        *,
        cursor: str | None,
        limit: int,
    ) -> Page[Run]:
        """Runs of a key, newest first."""
        pipeline, batch_id = wanted.pipeline, wanted.batch_id
        parameters = {
            "key_id": key_id,
            "pipeline": None if pipeline is None else storable_text(pipeline),
            "reason": wanted.reason,
            "before": None if cursor is None else decode_id_cursor(cursor),
            "up_to": limit + 1,
        }
        if batch_id is not None:
            parameters["batch_id"] = batch_id
        rows = await self._database.fetch(
            list_statement(wanted.state, has_batch=batch_id is not None), parameters
        )
        found = tuple(_run(row) for row in rows[:limit])
        return Page(found, encode_cursor(id=found[-1].id) if len(rows) > limit else None)

    async def list_history(self, key_id: UUID, run_id: UUID) -> list[PastAttempt]:
        """What a run was before each of its replays."""
        rows = await self._database.fetch(LIST_HISTORY, {"key_id": key_id, "run_id": run_id})
        if not rows:
            raise RunNotFoundError
        return [_past_attempt(row) for row in rows if row.number is not None]

    async def list_events(self, after: Mapping[UUID, int], *, limit: int) -> list[Event]:
        """Events of several runs, each after its own seq."""
        if not after:
            return []
        items = [{"run_id": run_id, "seq": seq} for run_id, seq in after.items()]
        rows = await self._database.fetch(
            LIST_EVENTS, {"after": encode_json(items), "up_to": limit}
        )
        return [
            Event(
                run_id=row.run_id,
                seq=row.seq,
                type=EventType(row.type),
                data=row.data,
                at=row.at,
            )
            for row in rows
        ]


def _run(row: Row) -> Run:
    """A run from its row."""
    state = RunState(row.state)
    return Run(
        id=row.id,
        key_id=row.key_id,
        pipeline=row.pipeline,
        state=state,
        input=row.input,
        output=row.output,
        failure=None if row.failure is None else failure_of(row.failure),
        metadata=row.metadata,
        priority=row.priority,
        steps=tuple(_step(step) for step in row.steps or ()),
        usage=_usage(row),
        cost_usd=row.cost_usd,
        budget_usd=row.budget_usd,
        attempts=row.attempts,
        crashes=row.crashes,
        lapses=row.lapses,
        replays=row.replays,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        next_at=row.next_at if state is RunState.QUEUED else None,
        trace_id=trace_id_of(row.traceparent),
        mode=RunMode(row.mode),
        batch_id=row.batch_id,
        batch_row=row.batch_row,
        reserved_usd=row.reserved_usd,
        doubtful_usd=row.doubtful_usd,
    )


def _past_attempt(row: Row) -> PastAttempt:
    """A past attempt from its row."""
    return PastAttempt(
        number=row.number,
        state=RunState(row.state),
        input=row.input,
        output=row.output,
        failure=None if row.failure is None else failure_of(row.failure),
        steps=tuple(_step(step) for step in row.steps),
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id in a W3C traceparent."""
    return traceparent.split("-")[1] if traceparent else None


def failure_of(failure: Json) -> Failure:
    """A failure from its JSON."""
    return Failure(
        reason=FailureReason(failure["reason"]),
        step=failure["step"],
        message=failure["message"],
        attempts=failure["attempts"],
    )


def _step(step: Json) -> StepRecord:
    """A step from its row as JSON."""
    return StepRecord(
        name=step["name"],
        state=StepState(step["state"]),
        attempts=step["attempts"],
        started_at=_moment(step["started_at"]),
        finished_at=_moment(step["finished_at"]),
        usage=_usage(step),
        cost_usd=Decimal(step["cost_usd"]),
        error=step["error"],
        output=step["output"],
    )


def _usage(row: Row | Json) -> Usage:
    """The tokens in a row."""
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cache_read_input_tokens=row["cache_read_input_tokens"],
        cache_creation_input_tokens=row["cache_creation_input_tokens"],
    )


def _moment(text: str | None) -> datetime | None:
    """A time from its JSON."""
    return None if text is None else datetime.fromisoformat(text)
