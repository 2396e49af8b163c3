"""Accepting runs: the moment after which a run is never lost."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

from uuid_utils.compat import uuid7

from services.core.clock import monotonic_s
from services.core.db import Database
from services.core.errors import IdempotencyConflictError, KeyRevokedError, QueueFullError
from services.core.pool import Row
from services.core.runs.batcher import Batcher
from services.core.runs.encoding import encode_json, storable_text
from services.core.runs.models import Json, NewRun, Run, StepRecord, shape_of
from services.core.runs.reading import trace_id_of
from services.core.runs.sql import statement
from services.core.runs.states import RunState, StepState
from services.core.usage import Usage

# A run, its steps and its first event. Rows come in the order of their idempotency keys, so that
# two batches never wait for each other in a circle. An idempotency key that was used before gives no
# row, and neither does an API key that is revoked: whoever knows a key from before need not ask first.
ACCEPT_RUNS = statement(
    """
    WITH item AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (
            id uuid, key_id uuid, idempotency_key text, request_hash text, pipeline text,
            input jsonb, metadata jsonb, priority integer, budget_usd numeric, traceparent text,
            shape text, step_names text[], mode text, batch_id uuid, batch_row integer)),
    accepted AS (
        INSERT INTO runs (id, key_id, idempotency_key, request_hash, pipeline, state, input,
                          metadata, priority, budget_usd, traceparent, shape, mode, batch_id,
                          batch_row, hint_at, event_seq)
        SELECT id, key_id, idempotency_key, decode(request_hash, 'hex'), pipeline, :run_queued,
               input, metadata, priority, budget_usd, traceparent, shape, mode, batch_id,
               batch_row,
               -- A hint is sent right after this commit; the sweep's turn comes only later.
               now() + make_interval(secs => CAST(:rehint_after_s AS double precision)), 1
          FROM item
         WHERE (SELECT revoked_at IS NULL FROM api_keys WHERE api_keys.id = item.key_id)
         ORDER BY key_id, idempotency_key
            ON CONFLICT (key_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
     RETURNING id, created_at),
    planned AS (
        INSERT INTO steps (run_id, name, position, state)
        SELECT id, step.name, step.position, :step_pending
          FROM accepted JOIN item USING (id),
               unnest(step_names) WITH ORDINALITY AS step (name, position)),
    told AS (
        INSERT INTO events (run_id, seq, type, data)
        SELECT id, 1, :event_run_queued, '{}' FROM accepted)
    SELECT id, created_at FROM accepted
    """
)

# Why a run was not accepted: no row if its key is not valid.
FIND_ACCEPTED_BEFORE = statement(
    """
    SELECT runs.id, request_hash
      FROM api_keys LEFT JOIN runs
           ON runs.key_id = api_keys.id AND runs.idempotency_key = CAST(:idempotency_key AS text)
     WHERE api_keys.id = :key_id AND revoked_at IS NULL
    """
)

# No further than the limit: a deep queue must not make the check itself slow.
COUNT_QUEUED_RUNS = statement(
    """
    SELECT count(*) AS depth FROM (
        SELECT FROM runs WHERE state = :run_queued LIMIT CAST(:up_to AS bigint)) AS queued
    """
)
DEPTH_MAX_AGE_S = 1.0
FULL_RETRY_AFTER_S = 5.0
_NO_USAGE = Usage()
_NO_COST = Decimal(0)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run's identity once it is committed."""

    run_id: UUID
    created_at: datetime | None
    """None for a run that was there before."""


class RunAcceptance:
    """Commits new runs, many at a time."""

    def __init__(self, database: Database, *, rehint_after_s: float, max_queued_runs: int) -> None:
        self._database = database
        self._rehint_after_s = rehint_after_s
        self._depth = _QueueDepth(database, limit=max_queued_runs)
        # One at a time: with two, each finds too few runs to be worth a transaction (2 of 64 callers', instead of 15).
        self._batcher: Batcher[UUID, Row] = Batcher(self._write, max_parallel=1)

    async def accept(self, new: NewRun) -> Accepted:
        """Commit a run, or find the one that the same request made before.

        Raises:
            IdempotencyConflictError: Another request used the idempotency key.
            KeyRevokedError: The API key is not valid any more.
            QueueFullError: Too many runs are queued.
        """
        if await self._depth.is_full():
            if before := await self._find(new):
                return before
            raise _queue_full()
        run_id = uuid7()
        row = await self._batcher.submit(run_id, _encode(run_id, new))
        if row is not None:
            self._depth.count(1)
            return Accepted(run_id, row.created_at)
        if before := await self._find(new):
            return before
        raise IdempotencyConflictError  # the run before was deleted between the two statements

    async def refuse_if_full(self, *, adding: int = 1) -> None:
        """Keep runs from being queued that were not before.

        Args:
            adding: How many they are.

        Raises:
            QueueFullError: Too many runs are queued, or would be.
        """
        if await self._depth.is_full(adding):
            raise _queue_full()

    def count_queued(self, runs: int) -> None:
        """Note runs that were queued in another way."""
        self._depth.count(runs)

    async def drain(self) -> None:
        """Wait until everything submitted so far is written."""
        await self._batcher.drain()
        await self._depth.drain()

    async def _find(self, new: NewRun) -> Accepted | None:
        """The run that was accepted under the same idempotency key."""
        key = new.idempotency_key
        rows = await self._database.fetch(
            FIND_ACCEPTED_BEFORE,
            {"key_id": new.key_id, "idempotency_key": None if key is None else storable_text(key)},
        )
        if not rows:
            raise KeyRevokedError
        if rows[0].id is None:
            return None
        if rows[0].request_hash != new.request_hash:
            raise IdempotencyConflictError
        return Accepted(rows[0].id, None)

    async def _write(self, items: Sequence[str]) -> Mapping[UUID, Row]:
        """Commit a batch; the rows of those that are new, by run."""
        rows = await self._database.fetch(
            ACCEPT_RUNS,
            {"items": f"[{','.join(items)}]", "rehint_after_s": self._rehint_after_s},
        )
        return {row.id: row for row in rows}


def _queue_full() -> QueueFullError:
    """The refusal of a run that would be one too many."""
    return QueueFullError(retry_after_s=FULL_RETRY_AFTER_S)


class _QueueDepth:
    """How many runs are queued: counted once a second, plus what this process has added since."""

    def __init__(self, database: Database, *, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._depth = 0
        self._counted_at_s: float | None = None
        self._counting: asyncio.Task[None] | None = None

    async def is_full(self, adding: int = 1) -> bool:
        """Whether so many runs are too many; waits for a count only if there never was one.

        Raises:
            StoreUnavailableError: The first count failed.
        """
        if self._counting is None and self._is_stale():
            self._counting = asyncio.create_task(self._count())
            self._counting.add_done_callback(self._note_counted)
        if self._counted_at_s is None and self._counting is not None:
            await asyncio.shield(self._counting)
        return self._depth + adding > self._limit

    def count(self, runs: int) -> None:
        """Note runs that this process added."""
        self._depth += runs

    async def drain(self) -> None:
        """Wait for the count that is on its way."""
        if self._counting is not None:
            await asyncio.wait({self._counting})

    def _is_stale(self) -> bool:
        """Whether it is time to count again."""
        return self._counted_at_s is None or monotonic_s() - self._counted_at_s > DEPTH_MAX_AGE_S

    async def _count(self) -> None:
        """Ask PostgreSQL."""
        rows = await self._database.fetch(COUNT_QUEUED_RUNS, {"up_to": self._limit})
        self._depth = rows[0].depth
        self._counted_at_s = monotonic_s()

    def _note_counted(self, counting: asyncio.Task[None]) -> None:
        """Allow the next count. A failed one is no news: accepting fails by itself then."""
        self._counting = None
        if not counting.cancelled():
            counting.exception()


def _encode(run_id: UUID, new: NewRun) -> str:
    """A run as an item of ACCEPT_RUNS."""
    own = {"id": str(run_id), "batch_row": new.batch_row, "input": new.input}
    return encode_json(own | shared_members(new))


def shared_members(new: NewRun) -> Json:
    """An item of ACCEPT_RUNS without what each run of a batch has of its own."""
    return {
        "key_id": str(new.key_id),
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "pipeline": new.pipeline,
        "metadata": new.metadata,
        "priority": new.priority,
        "budget_usd": new.budget_usd,
        "traceparent": new.traceparent,
        "shape": shape_of(new.pipeline, new.step_names),
        "step_names": new.step_names,
        "mode": new.mode,
        "batch_id": new.batch_id,
    }


def accepted_run(new: NewRun, *, run_id: UUID, created_at: datetime) -> Run:
    """A run as it is right after its acceptance."""
    return Run(
        id=run_id,
        key_id=new.key_id,
        pipeline=new.pipeline,
        state=RunState.QUEUED,
        input=new.input,
        output=None,
        failure=None,
        metadata=new.metadata,
        priority=new.priority,
        steps=_pending(new.step_names),
        usage=_NO_USAGE,
        cost_usd=_NO_COST,
        budget_usd=new.budget_usd,
        attempts=0,
        crashes=0,
        lapses=0,
        replays=0,
        created_at=created_at,
        started_at=None,
        finished_at=None,
        next_at=created_at,
        trace_id=trace_id_of(new.traceparent),
        mode=new.mode,
        batch_id=new.batch_id,
        batch_row=new.batch_row,
    )


@lru_cache
def _pending(step_names: tuple[str, ...]) -> tuple[StepRecord, ...]:
    """The steps of a new run: the same for all of a pipeline."""
    return tuple(
        StepRecord(
            name=name,
            state=StepState.PENDING,
            attempts=0,
            started_at=None,
            finished_at=None,
            usage=_NO_USAGE,
            cost_usd=_NO_COST,
            error=None,
            output=None,
        )
        for name in step_names
    )
