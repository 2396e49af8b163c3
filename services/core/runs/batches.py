"""Batches of runs: how far they are, what came out, and what can be done with all of their runs."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from services.core.db import Database
from services.core.errors import RunNotFoundError
from services.core.pool import Pool, Row
from services.core.runs.acceptance import RunAcceptance
from services.core.runs.batch_acceptance import BatchAcceptance, BatchChunks
from services.core.runs.batch_models import (
    AcceptedBatch,
    Batch,
    BatchProgress,
    BatchResult,
    NewBatch,
    RowError,
)
from services.core.runs.cancelling import cancel_runs
from services.core.runs.encoding import (
    decode_id_cursor,
    decode_place_cursor,
    encode_cursor,
    encode_place_cursor,
)
from services.core.runs.models import Page
from services.core.runs.reading import failure_of
from services.core.runs.sql import statement
from services.core.runs.states import RunMode, RunState

RATE_WINDOW_S = 60
"""Seconds whose ended runs say how fast a batch goes on."""
CANCEL_CHUNK = 500
ACCEPT_TIMEOUT_S = 30.0
"""Seconds that accepting a batch may take, the reading of its rows included: it is one transaction."""
COUNT_TIMEOUT_S = 5.0
"""Seconds that counting may take: it touches many rows."""

GET_PROGRESS = statement(
    f"""
    SELECT batches.*, now() AS at, counted.*
      FROM batches
     CROSS JOIN LATERAL (
           SELECT count(*) FILTER (WHERE state = :run_queued) AS queued,
                  count(*) FILTER (WHERE state = :run_running) AS running,
                  count(*) FILTER (WHERE state = :run_succeeded) AS succeeded,
                  count(*) FILTER (WHERE state = :run_failed) AS failed,
                  count(*) FILTER (WHERE state = :run_cancelled) AS cancelled,
                  count(*) FILTER (
                      WHERE finished_at > now() - interval '{RATE_WINDOW_S} seconds') AS recent,
                  coalesce(sum(cost_usd), 0) AS cost_usd,
                  max(finished_at) AS last_finished_at
             FROM runs
            WHERE runs.batch_id = batches.id) AS counted
     WHERE batches.id = ANY (CAST(:batch_ids AS uuid[]))
       AND (CAST(:key_id AS uuid) IS NULL OR batches.key_id = :key_id)
    """  # noqa: S608 - a constant
)

FIND_BATCH = statement("SELECT id FROM batches WHERE id = :batch_id AND key_id = :key_id")

LIST_BATCHES = statement(
    """
    SELECT * FROM batches
     WHERE key_id = :key_id AND (CAST(:before AS uuid) IS NULL OR id < :before)
     ORDER BY id DESC
     LIMIT CAST(:up_to AS bigint)
    """
)

LIST_ERRORS = statement(
    """
    SELECT * FROM batch_errors
     WHERE batch_id = :batch_id
       AND ("row", number) > (CAST(:after_row AS integer), CAST(:after_number AS integer))
     ORDER BY "row", number
     LIMIT CAST(:up_to AS bigint)
    """
)

LIST_RESULTS = statement(
    """
    SELECT batch_row, id, state, output, failure, cost_usd
      FROM runs
     WHERE batch_id = CAST(:batch_id AS uuid) AND batch_row > CAST(:after AS integer)
     ORDER BY batch_row
     LIMIT CAST(:up_to AS bigint)
    """
)

LIST_OUTPUT_KEYS = statement(
    """
    SELECT DISTINCT jsonb_object_keys(output) AS key FROM runs
     WHERE batch_id = CAST(:batch_id AS uuid) ORDER BY key
    """
)

LIST_UNFINISHED = statement(
    """
    SELECT id FROM runs
     WHERE batch_id = CAST(:batch_id AS uuid) AND state IN :cancel_sources
       AND (CAST(:after AS uuid) IS NULL OR id > :after)
     ORDER BY id
     LIMIT CAST(:up_to AS bigint)
    """
)


class BatchRecord:
    """Batches of a key's runs. What asks for one that the key has not raises RunNotFoundError."""

    def __init__(
        self,
        pool: Pool,
        acceptance: RunAcceptance,
        *,
        timeout_s: float,
        rehint_after_s: float,
    ) -> None:
        """Take what the store has; nothing connects yet.

        Args:
            pool: Where batches are.
            acceptance: Knows how deep the queue is.
            timeout_s: Seconds that reading a page may take.
            rehint_after_s: Seconds after which a due run without a taker is hinted again.
        """
        self._database = Database(pool, timeout_s=timeout_s)
        self._counting = Database(pool, timeout_s=max(timeout_s, COUNT_TIMEOUT_S))
        self._acceptance = BatchAcceptance(
            Database(pool, timeout_s=ACCEPT_TIMEOUT_S), acceptance, rehint_after_s=rehint_after_s
        )

    async def accept_batch(self, new: NewBatch, chunks: BatchChunks) -> AcceptedBatch:
        """Commit a batch with all of its runs, or nothing; each run as RunStore.accept_run does.

        The same idempotency key with the same request_hash gives the batch that it made before.

        Args:
            new: What its runs have in common.
            chunks: Its rows. What the generator raises is raised here, and nothing is committed.

        Raises:
            IdempotencyConflictError: The idempotency key was used with another request_hash.
            KeyRevokedError: The API key was revoked meanwhile.
            QueueFullError: Too many runs are queued, or would be.
        """
        return await self._acceptance.accept(new, chunks)

    async def get_batch(self, key_id: UUID, batch_id: UUID) -> BatchProgress:
        """One batch and how far it is."""
        rows = await self._counting.fetch(GET_PROGRESS, {"batch_ids": [batch_id], "key_id": key_id})
        if not rows:
            raise _not_found()
        return _progress(rows[0])

    async def list_progress(self, batch_ids: Collection[UUID]) -> list[BatchProgress]:
        """How far several batches are, whosever they are."""
        rows = await self._counting.fetch(
            GET_PROGRESS, {"batch_ids": list(batch_ids), "key_id": None}
        )
        return [_progress(row) for row in rows]

    async def list_batches(
        self, key_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Batch]:
        """Batches of a key, newest first.

        Raises:
            MalformedCursorError: The cursor is not one that a page gave; a ValueError.
        """
        before = None if cursor is None else decode_id_cursor(cursor)
        rows = await self._database.fetch(
            LIST_BATCHES, {"key_id": key_id, "before": before, "up_to": limit + 1}
        )
        found = tuple(Batch(**_facts(row)) for row in rows[:limit])
        return Page(found, encode_cursor(id=found[-1].id) if len(rows) > limit else None)

    async def list_errors(
        self, key_id: UUID, batch_id: UUID, *, cursor: str | None = None, limit: int = 50
    ) -> Page[RowError]:
        """What was wrong with a batch's bad rows, in their order.

        Raises:
            MalformedCursorError: The cursor is not one that a page gave; a ValueError.
        """
        row, number = (0, 0) if cursor is None else decode_place_cursor(cursor)
        await self._require(key_id, batch_id)
        rows = await self._database.fetch(
            LIST_ERRORS,
            {
                "batch_id": batch_id,
                "after_row": row,
                "after_number": number,
                "up_to": limit + 1,
            },
        )
        found = tuple(RowError(row.row, row.number, row.field, row.message) for row in rows[:limit])
        last = found[-1] if len(rows) > limit else None
        return Page(found, encode_place_cursor(last.row, last.number) if last else None)

    async def list_results(
        self, batch_id: UUID, *, after: int, limit: int = 100
    ) -> list[BatchResult]:
        """What became of the rows after one, in their order. Whether the caller may see it was checked before."""
        rows = await self._database.fetch(
            LIST_RESULTS, {"batch_id": batch_id, "after": after, "up_to": limit}
        )
        return [
            BatchResult(
                row=row.batch_row,
                run_id=row.id,
                state=RunState(row.state),
                output=row.output,
                failure=None if row.failure is None else failure_of(row.failure),
                cost_usd=row.cost_usd,
            )
            for row in rows
        ]

    async def list_output_keys(self, batch_id: UUID) -> list[str]:
        """The members that outputs of a batch have."""
        rows = await self._counting.fetch(LIST_OUTPUT_KEYS, {"batch_id": batch_id})
        return [row.key for row in rows]

    async def cancel_batch(self, key_id: UUID, batch_id: UUID) -> int:
        """End the runs of a batch that have not ended, some hundreds at a time; how many."""
        await self._require(key_id, batch_id)
        cancelled = 0
        wanted: dict[str, Any] = {"batch_id": batch_id, "after": None, "up_to": CANCEL_CHUNK}
        while rows := await self._database.fetch(LIST_UNFINISHED, wanted):
            cancelled += await cancel_runs(self._database, key_id, [row.id for row in rows])
            wanted["after"] = rows[-1].id
        return cancelled

    async def _require(self, key_id: UUID, batch_id: UUID) -> None:
        """Refuse what is not there."""
        if not await self._database.fetch(FIND_BATCH, {"key_id": key_id, "batch_id": batch_id}):
            raise _not_found()


def _not_found() -> RunNotFoundError:
    """A key sees its own batches only."""
    return RunNotFoundError("There is no such batch.")


def _facts(row: Row) -> dict[str, Any]:
    """What does not change about a batch, from its row."""
    return {
        "id": row.id,
        "key_id": row.key_id,
        "pipeline": row.pipeline,
        "mode": RunMode(row.mode),
        "metadata": row.metadata,
        "total": row.total,
        "rejected": row.rejected,
        "created_at": row.created_at,
    }


def _progress(row: Row) -> BatchProgress:
    """A batch and how far it is, from its row."""
    going_on = row.queued + row.running
    return BatchProgress(
        **_facts(row),
        counts={state: getattr(row, state) for state in RunState},
        cost_usd=row.cost_usd,
        finished_at=None if going_on else row.last_finished_at,
        eta_s=eta_s(going_on, recent=row.recent, since=row.created_at, now=row.at),
        at=row.at,
    )


def eta_s(going_on: int, *, recent: int, since: datetime, now: datetime) -> float | None:
    """Seconds until the last run ends, if as many end per second as in the last minute.

    Args:
        going_on: Runs that have not ended.
        recent: Runs that ended within RATE_WINDOW_S.
        since: When the batch began; before that none can have ended.
        now: When that was so.
    """
    if not going_on or not recent:
        return 0.0 if not going_on else None
    window_s = min(RATE_WINDOW_S, max(1.0, (now - since).total_seconds()))
    return round(going_on * window_s / recent, 1)
