"""Carries calls of runs in batch mode to Claude and their results back; docs/adr/0018-batch-mode.md."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Self
from uuid import UUID

from config.anthropic import AnthropicSettings
from services.core.claude.message_batches import (
    BatchResult,
    MessageBatch,
    MessageBatches,
    batch_body,
)
from services.core.claude.outcomes import Follow, follow_of
from services.core.db import Session
from services.core.errors import ClaudeError, ClaudeUnavailableError, MessageBatchInDoubtError
from services.core.queue.publisher import HintPublisher
from services.core.runs.message_batches import (
    BatchLimits,
    DoubtfulBatch,
    SentCall,
    SubmittedBatch,
    is_of_batch,
)
from services.core.runs.store import RunStore
from services.worker.patience import until_store_answers

logger = logging.getLogger(__name__)

SETTLED_AT_ONCE = 250
"""Results that are written in one transaction."""
MAX_TRIES = 3
"""Message batches that a call goes through before it fails for reasons that lie with Claude."""
CLOCK_SKEW = timedelta(minutes=5)
"""By how much Claude's clock and the record's may differ."""
NOT_FOUND = "not_found_error"
TOO_LARGE = frozenset({"request_too_large", "http_413"})
HINTED_AT_ONCE = 500
FORGOTTEN_AT_ONCE = 1000
"""Rows of each kind that one round deletes."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Batching:
    """Claude's message batches, and how they are to be made."""

    claude: MessageBatches
    limits: BatchLimits
    doubt_s: float
    """Seconds after which a message batch that Claude does not list was not made."""
    keep_s: float = 90 * DAY_S
    """Seconds that the record keeps message batches that have ended, and what keys spent in a day."""

    @classmethod
    def by_settings(cls, settings: AnthropicSettings) -> Self:
        """What the settings say; nothing connects yet."""
        limits = BatchLimits(
            max_calls=settings.batch_max_calls,
            max_bytes=settings.batch_max_bytes,
            linger_s=settings.batch_linger_s,
        )
        return cls(
            MessageBatches(settings),
            limits,
            settings.batch_doubt_s,
            keep_s=settings.accounts_keep_days * DAY_S,
        )


class BatchCourier:
    """Submits and polls; holds nothing, so that any process can go on where another one died."""

    def __init__(self, store: RunStore, batching: Batching, publisher: HintPublisher) -> None:
        self._store = store
        self._record = store.message_batches
        self._batching = batching
        self._claude = batching.claude
        self._publisher = publisher

    # --- submitting ---------------------------------------------------------------------------

    async def submit(self) -> None:
        """Send what waits, in one message batch. One process at a time does.

        Raises:
            StoreUnavailableError: PostgreSQL does not answer; a later round goes on.
        """
        if not self._claude.is_configured or await self._record.is_idle():
            return
        async with self._record.submitting() as session:
            if session is None:
                return
            await self._record.drop_unwanted_calls()
            if await self._resolve_doubts():
                await self._send_waiting(session, self._batching.limits)

    async def _send_waiting(self, session: Session, limits: BatchLimits) -> None:
        """Send a message batch of what waits; half of it, if that is too large for Claude."""
        batch_id = await self._record.gather(limits)
        if batch_id is None:
            return
        requests = await self._record.read_requests(batch_id, max_bytes=limits.max_bytes)
        if not await self._record.confirm(session, batch_id, size=len(requests)):
            return
        try:
            await self._send(batch_id, requests)
        except MessageBatchInDoubtError as error:
            logger.warning("message batch %s is in doubt: %s", batch_id, error)
        except ClaudeError as error:
            logger.warning("message batch %s was refused: %s", batch_id, error)
            if error.error_type in TOO_LARGE and len(requests) > 1:
                await self._record.release(batch_id)
                half = replace(limits, max_calls=len(requests) // 2)
                await self._send_waiting(session, half)
            else:
                await self._refuse(batch_id, error)

    async def _send(self, batch_id: UUID, requests: Sequence[tuple[str, str]]) -> None:
        """Send one, once.

        Raises:
            MessageBatchInDoubtError: Nobody knows whether Claude has it.
            ClaudeError: Claude has not.
        """
        if not requests:  # all were cancelled just now
            await self._record.release(batch_id)
            return
        claude_id = await self._claude.submit(batch_body(requests))
        logger.info("message batch %s (%s): %d calls", batch_id, claude_id, len(requests))
        note = partial(self._record.note_submitted, batch_id, claude_id)
        if not await until_store_answers(note):
            # This process was held up for so long that another one has decided: it was not made.
            logger.warning("message batch %s came too late: %s is cancelled", batch_id, claude_id)
            await self._cancel(claude_id)

    async def _cancel(self, claude_id: str) -> None:
        """Have Claude do no more of it than it has done."""
        try:
            await self._claude.cancel(claude_id)
        except ClaudeError as error:
            logger.warning("message batch %s was not cancelled: %s", claude_id, error)

    async def _refuse(self, batch_id: UUID, error: ClaudeError) -> None:
        """What follows from a refusal: the calls wait for a better time, or have this error."""
        if follow_of(error) in {Follow.GIVE_UP, Follow.ASK_FOR_BUDGET}:
            await self._fail_calls(batch_id, error)
        await self._record.release(batch_id)
        if error.retry_after_s:
            await self._record.hold_off(batch_id, wait_s=error.retry_after_s)

    async def _resolve_doubts(self) -> bool:
        """Find out what became of message batches whose sender died; whether to send more now.

        A sender dies rarely, but Claude may be away for long: nothing is sent until what was sent
        last is either found or known to be lost, so that doubts do not pile up.
        """
        doubtful = await self._record.list_doubtful(doubt_s=self._batching.doubt_s)
        if not doubtful:
            return True
        try:
            strangers = await self._list_strangers(since=doubtful[0].created_at - CLOCK_SKEW)
            resolved = [await self._resolve(batch, strangers) for batch in doubtful]
        except ClaudeError as error:
            logger.warning("%d message batches stay in doubt: %s", len(doubtful), error)
            return False
        return all(resolved)

    async def _list_strangers(self, *, since: datetime) -> list[MessageBatch]:
        """Message batches that Claude has and the record does not know."""
        listed = await self._claude.list_since(since)
        known = await self._record.find_known([batch.id for batch in listed])
        return [batch for batch in listed if batch.id not in known]

    async def _resolve(self, doubtful: DoubtfulBatch, strangers: Sequence[MessageBatch]) -> bool:
        """Adopt it, let its calls wait again, or leave it: then False, unless Claude is at it.

        Only results tell whose a message batch is. While one that it may be is not ended, there is
        nothing to decide: if it is ours, its results are what we would wait for in any case.
        """
        candidates = [batch for batch in strangers if _may_be(batch, doubtful)]
        for candidate in candidates:
            if candidate.has_ended and await self._is_ours(candidate, doubtful):
                logger.info("message batch %s is found: %s", doubtful.id, candidate.id)
                await self._record.note_submitted(doubtful.id, candidate.id)
                return True
        if any(not candidate.has_ended for candidate in candidates):
            return True
        if doubtful.is_overdue:
            logger.info("message batch %s was not made", doubtful.id)
            await self._record.release(doubtful.id)
        return doubtful.is_overdue

    async def _is_ours(self, candidate: MessageBatch, doubtful: DoubtfulBatch) -> bool:
        """Whether its results bear our names; the first one tells."""
        async with aclosing(self._claude.results(candidate.id)) as results:
            async for result in results:
                return is_of_batch(result.custom_id, doubtful.id)
        return False

    # --- polling ------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Look at every message batch that Claude has, and settle the calls of those that ended.

        Raises:
            StoreUnavailableError: PostgreSQL does not answer; a later round goes on.
        """
        if not self._claude.is_configured:
            return
        async with self._record.polling() as session:
            if session is None:
                return
            for batch in await self._record.list_submitted():
                try:
                    await self._poll(batch)
                except ClaudeError as error:
                    logger.warning("message batch %s: %s", batch.claude_id, error)
            await self._record.forget(keep_s=self._batching.keep_s, limit=FORGOTTEN_AT_ONCE)

    async def _poll(self, batch: SubmittedBatch) -> None:
        """Look at one; what Claude does not tell now it may tell the next time."""
        try:
            current = await self._claude.get(batch.claude_id)
        except ClaudeError as error:
            if error.error_type != NOT_FOUND:
                raise
            # Deleted, or of another workspace: nobody knows what it cost, so nothing is sent again.
            await self._fail_calls(batch.id, error)
            await self._end(batch)
            return
        if current.has_ended:
            await self._settle_all(batch)
        elif batch.is_unwanted and not current.is_canceling:
            await self._cancel(batch.claude_id)

    async def _settle_all(self, batch: SubmittedBatch) -> None:
        """Settle every result. A stream that is cut, in good order or not, is read again."""
        count = 0
        chunk: list[BatchResult] = []
        async with aclosing(self._claude.results(batch.claude_id)) as results:
            async for result in results:
                count += 1
                chunk.append(result)
                if len(chunk) >= SETTLED_AT_ONCE:
                    await self._settle(chunk)
                    chunk = []
        await self._settle(chunk)
        if count < batch.size:
            text = f"Only {count} of {batch.size} results came"
            raise ClaudeUnavailableError(text, error_type="cut")
        text = "The message batch has no result for the request"
        await self._fail_calls(batch.id, ClaudeUnavailableError(text, error_type="missing"))
        await self._end(batch)

    async def _end(self, batch: SubmittedBatch) -> None:
        await self._record.end(batch.id)
        logger.info("message batch %s (%s) has ended", batch.id, batch.claude_id)
        for hint in await self._store.take_due_hints(limit=HINTED_AT_ONCE):
            self._publisher.hint(hint.run_id, is_isolated=hint.is_isolated)

    # --- settling -----------------------------------------------------------------------------

    async def _settle(self, results: Sequence[BatchResult]) -> None:
        """Settle some results; one that was settled before changes nothing."""
        by_name = {result.custom_id: result for result in results if result.custom_id}
        calls = await self._record.find_calls(by_name)
        await self._settle_calls([(call, by_name[name]) for name, call in calls.items()])

    async def _fail_calls(self, batch_id: UUID, error: ClaudeError) -> None:
        """Give every call of a message batch that has no result this one."""
        while calls := await self._record.list_calls(batch_id, limit=SETTLED_AT_ONCE):
            result = BatchResult(None, error=error)
            await self._settle_calls([(call, result) for call in calls])

    async def _settle_calls(self, ended: Sequence[tuple[SentCall, BatchResult]]) -> None:
        """Let calls that Claude failed wait for another batch, a few times; settle the others."""
        again = [call.custom_id for call, result in ended if _goes_again(call, result)]
        returned = [custom_id for custom_id in again if custom_id is not None]
        if returned:
            await self._record.return_calls(returned)
        await asyncio.gather(
            *(
                self._settle_call(call, result)
                for call, result in ended
                if not _goes_again(call, result)
            )
        )

    async def _settle_call(self, call: SentCall, result: BatchResult) -> None:
        answered = result.message.model if result.message is not None else ""
        answer = self._claude.keep(result, asked_model=call.model or answered)
        await self._store.settle_call(
            call.run_id,
            call.step,
            call.question,
            call.number,
            call.reservation,
            usage=answer.usage,
            cost_usd=answer.cost_usd,
            answer=answer.kept,
            is_failed=result.message is None,
        )


def _goes_again(call: SentCall, result: BatchResult) -> bool:
    """Whether the call is to go into another message batch."""
    return call.custom_id is not None and result.may_succeed_later and call.tries < MAX_TRIES


def _may_be(batch: MessageBatch, doubtful: DoubtfulBatch) -> bool:
    """Whether size and time fit."""
    since, until = doubtful.created_at - CLOCK_SKEW, doubtful.doubted_at + CLOCK_SKEW
    return batch.size == doubtful.size and since <= batch.created_at <= until
