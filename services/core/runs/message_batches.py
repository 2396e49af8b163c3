"""Calls of runs in batch mode on their way through message batches, as the record knows it.

Whoever changes calls here holds the locks of their runs, taken in order, except `gather`: it waits
for nothing, so it can be in nobody's way.
"""

from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from services.core.db import Database, Session
from services.core.pool import Row
from services.core.runs import message_batch_statements as statements
from services.core.runs.encoding import encode_json
from services.core.runs.models import Json

SUBMIT_LOCK = 0x7065_6E73_0001
POLL_LOCK = 0x7065_6E73_0002
"""Advisory locks: each is that of one process among all that share the record."""
READ_AT_ONCE = 100
"""Requests that are read in one statement: each may be megabytes."""
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
BYTES_AROUND = 100
"""Of each request in the body: its custom_id, and JSON's punctuation."""
TAG_LENGTH = 18
UUID_LENGTH = 22
"""Characters in a custom_id, in base64 without padding: tag of the batch, run, reservation."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a message batch may hold, and what it waits for."""

    max_calls: int
    max_bytes: int
    linger_s: float


@dataclass(frozen=True, slots=True)
class DoubtfulBatch:
    """A message batch that was to be made, and nobody knows whether it was."""

    id: UUID
    size: int
    created_at: datetime
    doubted_at: datetime
    """When that was first noticed."""
    is_overdue: bool
    """If Claude does not list it by now, it was not made."""


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """A message batch that Claude has."""

    id: UUID
    claude_id: str
    size: int
    is_unwanted: bool
    """All runs that wait for it have ended."""


@dataclass(frozen=True, slots=True)
class SentCall:
    """A call whose result is awaited, as RunStore.settle_call names it."""

    custom_id: str | None
    """None: it is no call any more, only its cost is still unknown."""
    run_id: UUID
    step: str
    question: bytes
    number: int
    reservation: UUID
    model: str
    tries: int


class MessageBatchRecord:
    """Forms message batches of waiting calls and follows them. RunStore settles the calls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- submitting ---------------------------------------------------------------------------

    async def is_idle(self) -> bool:
        """Whether no call waits and no message batch is on its way to Claude."""
        return not (await self._database.fetch(statements.HAS_WORK))[0].has_work

    @asynccontextmanager
    async def submitting(self) -> AsyncIterator[Session | None]:
        """Be the only process that submits; None if another one is."""
        async with self._database.only_one(SUBMIT_LOCK) as session:
            yield session

    async def drop_unwanted_calls(self) -> int:
        """Remove waiting calls of runs that have ended, and what is reserved for them; how many."""
        rows = await self._database.fetch(statements.DROP_UNWANTED_CALLS)
        return len(rows)

    async def gather(self, limits: BatchLimits) -> UUID | None:
        """Make a message batch of waiting calls and note them as submitted; None if it is not time.

        Only calls of runs that are parked: one that is still executed will have more of them.
        """
        batch_id = uuid4()
        rows = await self._database.fetch(
            statements.GATHER,
            {
                "batch_id": batch_id,
                "max_calls": limits.max_calls,
                "linger_s": limits.linger_s,
            },
        )
        return batch_id if rows else None

    async def read_requests(self, batch_id: UUID, *, max_bytes: int) -> list[tuple[str, str]]:
        """Custom id and parameters, as JSON text, of each call in a message batch that is not sent.

        Calls beyond `max_bytes` wait for another batch; the oldest one is in this, whatever its size.
        """
        found: list[tuple[str, str]] = []
        place: Json = {"batch_id": batch_id, "after_at": LONG_AGO, "after": ""}
        bytes_left = max_bytes
        while True:
            rows = await self._database.fetch(
                statements.READ_REQUESTS, {**place, "up_to": READ_AT_ONCE}
            )
            for row in rows:
                bytes_left -= len(row.params.encode()) + BYTES_AROUND
                if found and bytes_left < 0:
                    await self._database.fetch(statements.RETURN_REST, place)
                    return found
                found.append((row.custom_id, row.params))
                place |= {"after_at": row.opened_at, "after": row.custom_id}
            if len(rows) < READ_AT_ONCE:
                return found

    async def confirm(self, session: Session, batch_id: UUID, *, size: int) -> bool:
        """Whether it may be sent now: nobody has decided on it, and the lock is still ours.

        Args:
            session: Holds the lock.
            batch_id: From `gather`.
            size: Calls that will be sent; some may have gone since.
        """
        rows = await session.fetch(statements.CONFIRM, {"batch_id": batch_id, "size": size})
        return bool(rows)

    async def note_submitted(self, batch_id: UUID, claude_id: str) -> bool:
        """Keep Claude's id of it; False if it was decided meanwhile that it was not made."""
        rows = await self._database.fetch(
            statements.NOTE_SUBMITTED, {"batch_id": batch_id, "claude_id": claude_id}
        )
        return bool(rows)

    async def release(self, batch_id: UUID) -> None:
        """It was not made: its calls wait again."""
        await self._database.fetch(statements.RELEASE, {"batch_id": batch_id})

    async def hold_off(self, batch_id: UUID, *, wait_s: float) -> None:
        """Have nobody make another message batch for a while, after this one was released."""
        await self._database.fetch(statements.HOLD_OFF, {"batch_id": batch_id, "wait_s": wait_s})

    async def list_doubtful(self, *, doubt_s: float) -> list[DoubtfulBatch]:
        """Those that were to be made, oldest first. Only who holds the lock may ask."""
        rows = await self._database.fetch(statements.LIST_DOUBTFUL, {"doubt_s": doubt_s})
        return [DoubtfulBatch(**row) for row in rows]

    async def find_known(self, claude_ids: Collection[str]) -> set[str]:
        """Those of Claude's ids that are in the record."""
        rows = await self._database.fetch(statements.FIND_KNOWN, {"claude_ids": list(claude_ids)})
        return {row.claude_id for row in rows}

    # --- polling ------------------------------------------------------------------------------

    @asynccontextmanager
    async def polling(self) -> AsyncIterator[Session | None]:
        """Be the only process that polls; None if another one is."""
        async with self._database.only_one(POLL_LOCK) as session:
            yield session

    async def list_submitted(self) -> list[SubmittedBatch]:
        """The message batches that Claude has, oldest first."""
        rows = await self._database.fetch(statements.LIST_SUBMITTED)
        return [SubmittedBatch(**row) for row in rows]

    async def find_calls(self, custom_ids: Collection[str]) -> dict[str, SentCall]:
        """The calls of results. Not those that are settled, nor any that we never made."""
        names = [name for name in map(_parse_custom_id, custom_ids) if name is not None]
        rows = await self._database.fetch(statements.FIND_CALLS, {"items": encode_json(names)})
        return {row.name: _sent_call(row) for row in rows}

    async def list_calls(self, batch_id: UUID, *, limit: int) -> list[SentCall]:
        """Calls of a message batch that have no result yet."""
        rows = await self._database.fetch(
            statements.LIST_CALLS, {"batch_id": batch_id, "up_to": limit}
        )
        return [_sent_call(row) for row in rows]

    async def return_calls(self, custom_ids: Sequence[str]) -> None:
        """Let submitted calls wait for another message batch, and count that as a try."""
        await self._database.fetch(statements.RETURN_CALLS, {"custom_ids": list(custom_ids)})

    async def end(self, batch_id: UUID) -> None:
        """All its results are there."""
        await self._database.fetch(statements.END, {"batch_id": batch_id})

    async def forget(self, *, keep_s: float, limit: int) -> int:
        """Delete message batches that ended, and days of keys that passed, before that; how many."""
        bounds = {"keep_s": keep_s, "up_to": limit}
        batches = await self._database.fetch(statements.FORGET_BATCHES, bounds)
        days = await self._database.fetch(statements.FORGET_KEY_DAYS, bounds)
        return len(batches) + len(days)


def is_of_batch(custom_id: str | None, batch_id: UUID) -> bool:
    """Whether a request was part of that message batch: its name begins with the batch's."""
    return custom_id is not None and custom_id.startswith(batch_id.hex[:TAG_LENGTH])


def _parse_custom_id(custom_id: str) -> dict[str, Any] | None:
    """Run and reservation in a custom_id; None if it is not one of ours."""
    try:
        run, reservation = (
            UUID(bytes=urlsafe_b64decode(custom_id[start : start + UUID_LENGTH] + "=="))
            for start in (TAG_LENGTH + 1, TAG_LENGTH + UUID_LENGTH + 2)
        )
    except ValueError:
        return None
    return {"name": custom_id, "run_id": run, "reservation": reservation}


def _sent_call(row: Row) -> SentCall:
    return SentCall(
        custom_id=row.custom_id,
        run_id=row.run_id,
        step=row.step,
        question=row.question,
        number=row.number,
        reservation=row.reservation,
        model=row.model,
        tries=row.tries,
    )
