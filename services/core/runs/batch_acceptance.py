"""Accepting a batch of runs: all of its rows, or none."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from uuid import UUID

from uuid_utils.compat import uuid7

from services.core.db import Database, Session
from services.core.errors import IdempotencyConflictError, KeyRevokedError
from services.core.runs.acceptance import ACCEPT_RUNS, RunAcceptance, shared_members
from services.core.runs.batch_models import AcceptedBatch, BatchChunk, BatchRow, NewBatch, RowError
from services.core.runs.encoding import encode_json, storable_text
from services.core.runs.models import NewRun
from services.core.runs.sql import statement

# Without a row if the idempotency key was used before. Whoever uses it at the same time waits here
# until the first has committed.
INSERT_BATCH = statement(
    """
    INSERT INTO batches (id, key_id, idempotency_key, request_hash, pipeline, mode, metadata,
                         total, rejected)
    VALUES (:id, :key_id, :idempotency_key, :request_hash, :pipeline, :mode,
            CAST(:metadata AS jsonb), 0, 0)
        ON CONFLICT (key_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id
    """
)
FIND_BATCH = statement(
    """
    SELECT id, request_hash FROM batches
     WHERE key_id = :key_id AND idempotency_key = :idempotency_key
    """
)
INSERT_ERRORS = statement(
    """
    INSERT INTO batch_errors (batch_id, "row", number, field, message)
    SELECT :batch_id, item."row", item.number, item.field, item.message
      FROM json_to_recordset(CAST(:items AS json)) AS item (
           "row" integer, number smallint, field text, message text)
    """
)
COUNT_ROWS = statement(
    """
    UPDATE batches SET total = :total, rejected = :rejected WHERE id = :batch_id
    """
)
BatchChunks = AsyncGenerator[BatchChunk, None]
HINTED_RUNS = 4
"""Runs of a batch that are worth a hint: each wakes a worker, which claims all it can hold."""


class _AcceptedBeforeError(Exception):
    """The idempotency key was used before."""


class BatchAcceptance:
    """Commits batches. RunStore says what each method promises."""

    def __init__(
        self, database: Database, acceptance: RunAcceptance, *, rehint_after_s: float
    ) -> None:
        """Take what accepting needs.

        Args:
            database: Where batches go; it bounds the whole, the reading of chunks included.
            acceptance: Knows how deep the queue is.
            rehint_after_s: Seconds after which a due run without a taker is hinted again.
        """
        self._database = database
        self._acceptance = acceptance
        self._rehint_after_s = rehint_after_s

    async def accept(self, new: NewBatch, chunks: BatchChunks) -> AcceptedBatch:
        """Commit a batch, or find the one that the same request made before."""
        if before := await self._find(new):
            return before
        await self._acceptance.refuse_if_full()
        writer = _BatchWriter(new, rehint_after_s=self._rehint_after_s)
        try:
            async with self._database.transaction() as session:
                await writer.write(session, chunks)
                await self._acceptance.refuse_if_full(adding=writer.accepted)
        except _AcceptedBeforeError as error:
            if before := await self._find(new):
                return before
            raise IdempotencyConflictError from error  # deleted between the two statements
        self._acceptance.count_queued(writer.accepted)
        return AcceptedBatch(writer.batch_id, is_new=True, first_run_ids=writer.first_run_ids)

    async def _find(self, new: NewBatch) -> AcceptedBatch | None:
        """The batch that was accepted under the same idempotency key."""
        if new.idempotency_key is None:
            return None
        rows = await self._database.fetch(
            FIND_BATCH,
            {"key_id": new.key_id, "idempotency_key": storable_text(new.idempotency_key)},
        )
        for row in rows:
            if row.request_hash != new.request_hash:
                raise IdempotencyConflictError
            return AcceptedBatch(row.id, is_new=False)
        return None


class _BatchWriter:
    """Writes one batch within a transaction, chunk after chunk."""

    def __init__(self, new: NewBatch, *, rehint_after_s: float) -> None:
        self._new = new
        self._rehint_after_s = rehint_after_s
        self._shared = _encode_shared(new, batch_id := uuid7())
        self._rejected = 0
        self.batch_id = batch_id
        self.accepted = 0
        """Runs so far."""
        self.first_run_ids: list[UUID] = []

    async def write(self, session: Session, chunks: BatchChunks) -> None:
        """Write everything. While PostgreSQL takes a chunk, the next is made."""
        await self._insert_batch(session)
        writing: asyncio.Task[None] | None = None
        try:
            async with aclosing(chunks) as coming:
                async for chunk in coming:
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._write_chunk(session, chunk))
            if writing is not None:
                await writing
        finally:
            await _end(writing)
        counts = {"total": self.accepted + self._rejected, "rejected": self._rejected}
        await session.fetch(COUNT_ROWS, {"batch_id": self.batch_id} | counts)

    async def _insert_batch(self, session: Session) -> None:
        """Begin with the batch itself, which its runs refer to."""
        new = self._new
        key = new.idempotency_key
        inserted = await session.fetch(
            INSERT_BATCH,
            {
                "id": self.batch_id,
                "key_id": new.key_id,
                "idempotency_key": None if key is None else storable_text(key),
                "request_hash": new.request_hash,
                "pipeline": new.pipeline,
                "mode": new.mode,
                "metadata": encode_json(new.metadata),
            },
        )
        if not inserted:
            raise _AcceptedBeforeError

    async def _write_chunk(self, session: Session, chunk: BatchChunk) -> None:
        """Write a chunk's runs, with their steps and first events, and its errors."""
        if chunk.rows:
            items = ",".join(self._encode(row) for row in chunk.rows)
            accepted = await session.fetch(
                ACCEPT_RUNS, {"items": f"[{items}]", "rehint_after_s": self._rehint_after_s}
            )
            if len(accepted) < len(chunk.rows):
                raise KeyRevokedError
            self.accepted += len(accepted)
        if chunk.errors:
            await session.fetch(
                INSERT_ERRORS,
                {"batch_id": self.batch_id, "items": _encode_errors(chunk.errors)},
            )
            self._rejected += sum(error.number == 1 for error in chunk.errors)

    def _encode(self, row: BatchRow) -> str:
        """A row as an item of ACCEPT_RUNS."""
        run_id = uuid7()
        if len(self.first_run_ids) < HINTED_RUNS:
            self.first_run_ids.append(run_id)
        return f'{{"id":"{run_id}","batch_row":{row.row},"input":{row.input},{self._shared}'


async def _end(writing: asyncio.Task[None] | None) -> None:
    """Leave no statement on its way: the connection takes one at a time."""
    if writing is not None and not writing.done():
        writing.cancel()
        await asyncio.wait({writing})
    if writing is not None and not writing.cancelled():
        writing.exception()


def _encode_shared(new: NewBatch, batch_id: UUID) -> str:
    """The end of an item of ACCEPT_RUNS: what all runs of the batch have in common."""
    run = NewRun(
        key_id=new.key_id,
        pipeline=new.pipeline,
        input={},
        step_names=new.step_names,
        metadata=new.metadata,
        priority=new.priority,
        budget_usd=new.budget_usd,
        traceparent=new.traceparent,
        mode=new.mode,
        batch_id=batch_id,
    )
    return encode_json(shared_members(run)).removeprefix("{")


def _encode_errors(errors: Sequence[RowError]) -> str:
    """Errors as items of INSERT_ERRORS."""
    return encode_json(
        [
            {
                "row": error.row,
                "number": error.number,
                "field": error.field,
                "message": error.message,
            }
            for error in errors
        ]
    )
