"""BatchRecord without PostgreSQL, for tests of the API: all of a batch's runs are in the in-memory store."""

import json
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING
from uuid import UUID

from uuid_utils.compat import uuid7

from services.core.clock import utc_now
from services.core.errors import IdempotencyConflictError, RunNotFoundError
from services.core.runs.batch_acceptance import HINTED_RUNS, BatchChunks
from services.core.runs.batch_models import (
    AcceptedBatch,
    Batch,
    BatchProgress,
    BatchResult,
    NewBatch,
    RowError,
)
from services.core.runs.batches import eta_s
from services.core.runs.models import NewRun, Page, Run
from services.core.runs.states import FINAL_STATES, RunState

if TYPE_CHECKING:
    from tests.fakes.run_store import InMemoryRunStore


class InMemoryBatchRecord:
    """Keeps batches in a dictionary; counts and results come from the store's runs."""

    def __init__(self, store: "InMemoryRunStore") -> None:
        self._store = store
        self.batches: dict[UUID, Batch] = {}
        self.errors: dict[UUID, list[RowError]] = {}
        self._requests: dict[tuple[UUID, str], tuple[bytes | None, UUID]] = {}

    async def accept_batch(self, new: NewBatch, chunks: BatchChunks) -> AcceptedBatch:
        """As BatchRecord."""
        self._store._note("accept_batch")
        known = self._requests.get((new.key_id, new.idempotency_key or ""))
        if known and known[0] != new.request_hash:
            raise IdempotencyConflictError
        if known:
            return AcceptedBatch(known[1], is_new=False)
        batch_id = uuid7()
        read = [chunk async for chunk in chunks]
        rows = [row for chunk in read for row in chunk.rows]
        errors = [error for chunk in read for error in chunk.errors]
        self._store._refuse_if_full(adding=len(rows))
        run_ids = [
            self._store.add_run(
                NewRun(
                    new.key_id,
                    new.pipeline,
                    json.loads(row.input),
                    new.step_names,
                    metadata=new.metadata,
                    priority=new.priority,
                    budget_usd=new.budget_usd,
                    mode=new.mode,
                    batch_id=batch_id,
                    batch_row=row.row,
                )
            ).id
            for row in rows
        ]
        rejected = len({error.row for error in errors})
        self.errors[batch_id] = errors
        self.batches[batch_id] = Batch(
            id=batch_id,
            key_id=new.key_id,
            pipeline=new.pipeline,
            mode=new.mode,
            metadata=new.metadata,
            total=len(rows) + rejected,
            rejected=rejected,
            created_at=utc_now(),
        )
        if new.idempotency_key:
            self._requests[new.key_id, new.idempotency_key] = (new.request_hash, batch_id)
        return AcceptedBatch(batch_id, is_new=True, first_run_ids=run_ids[:HINTED_RUNS])

    async def get_batch(self, key_id: UUID, batch_id: UUID) -> BatchProgress:
        """As BatchRecord."""
        self._store._note("get_batch")
        batch = self.batches.get(batch_id)
        if batch is None or batch.key_id != key_id:
            raise RunNotFoundError
        return self._progress(batch)

    async def list_progress(self, batch_ids: Collection[UUID]) -> list[BatchProgress]:
        """As BatchRecord."""
        self._store._note("list_progress")
        return [self._progress(self.batches[batch_id]) for batch_id in batch_ids]

    async def list_batches(
        self, key_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Batch]:
        """As BatchRecord."""
        self._store._note("list_batches")
        mine = [batch for batch in reversed(self.batches.values()) if batch.key_id == key_id]
        start = int(cursor or 0)
        after = str(start + limit) if start + limit < len(mine) else None
        return Page(tuple(mine[start : start + limit]), after)

    async def list_errors(
        self, key_id: UUID, batch_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[RowError]:
        """As BatchRecord."""
        await self.get_batch(key_id, batch_id)
        start = int(cursor or 0)
        errors = self.errors[batch_id]
        after = str(start + limit) if start + limit < len(errors) else None
        return Page(tuple(errors[start : start + limit]), after)

    async def list_results(
        self, batch_id: UUID, *, after: int, limit: int = 100
    ) -> list[BatchResult]:
        """As BatchRecord."""
        self._store._note("list_results")
        return [
            BatchResult(run.batch_row, run.id, run.state, run.output, run.failure, run.cost_usd)
            for run in self.runs_of(batch_id)
            if run.batch_row is not None and run.batch_row > after
        ][:limit]

    async def list_output_keys(self, batch_id: UUID) -> list[str]:
        """As BatchRecord."""
        return sorted({name for run in self.runs_of(batch_id) for name in run.output or ()})

    async def cancel_batch(self, key_id: UUID, batch_id: UUID) -> int:
        """As BatchRecord."""
        await self.get_batch(key_id, batch_id)
        going_on = [run for run in self.runs_of(batch_id) if run.state not in FINAL_STATES]
        for run in going_on:
            await self._store.cancel_run(key_id, run.id)
        return len(going_on)

    def runs_of(self, batch_id: UUID) -> list[Run]:
        """The runs of a batch, in the order of their rows."""
        return [run for run in self._store.runs.values() if run.batch_id == batch_id]

    def _progress(self, batch: Batch) -> BatchProgress:
        runs = self.runs_of(batch.id)
        counts = Counter(run.state for run in runs)
        going_on = counts[RunState.QUEUED] + counts[RunState.RUNNING]
        ends = [run.finished_at for run in runs if run.finished_at]
        return BatchProgress(
            **{name: getattr(batch, name) for name in Batch.__slots__},
            counts={state: counts[state] for state in RunState},
            cost_usd=sum((run.cost_usd for run in runs), start=runs[0].cost_usd * 0),
            finished_at=None if going_on else max(ends),
            eta_s=eta_s(going_on, recent=len(ends), since=batch.created_at, now=utc_now()),
            at=utc_now(),
        )
