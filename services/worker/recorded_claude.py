"""Claude as one try of a step sees it: a call is in the record before it is made, and after it.

What an earlier try was answered is read again and not paid for again. What a call can cost at most is
reserved before, and what it cost is kept after, also if nobody wants its answer any more.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from random import random
from typing import Any, TypeAlias

from pydantic import BaseModel

from services.core.claude.kept import join_kept, read_kept
from services.core.claude.message_batches import reread_error
from services.core.claude.messages import message_params
from services.core.claude.protocol import (
    Answer,
    Claude,
    ClaudeReply,
    ClaudeRequest,
    OnText,
    Truncation,
)
from services.core.claude.turns import following_request
from services.core.errors import (
    BreakerOpenError,
    BudgetBusyError,
    BudgetExceededError,
    CallParkedError,
    ClaudeError,
    ClaudeNotConfiguredError,
    StepTransientError,
)
from services.core.runs.call_limiter import CallFault
from services.core.runs.models import Forgotten, Json, OpenCall, PastCall
from services.core.runs.states import CallState, RunMode
from services.worker.admission import Admits, fault_of
from services.worker.call_book import CallBook, CallName

BATCH_WAIT_S = 3600.0
"""Seconds until a run looks for itself; the last result of its message batches makes it due before."""
BUDGET_WAIT_S = 5.0
"""Seconds, on average, until a run whose key has reserved its budget tries again: about one call."""

NewText: TypeAlias = Callable[[], OnText]
"""Begins the text of one call."""


class RecordedClaude:
    """Claude for one try of one step."""

    def __init__(
        self,
        claude: Claude,
        admits: Admits[Any],
        book: CallBook,
        *,
        new_text: NewText,
        trace_key: str,
        mode: RunMode = RunMode.LIVE,
    ) -> None:
        """Take what calls need.

        Args:
            claude: Who is asked.
            admits: Says whether it may be asked now.
            book: Where the calls are kept.
            new_text: Takes what the answers say while they arrive.
            trace_key: Finds the calls again.
            mode: How Claude is asked.
        """
        self._claude = claude
        self._admits = admits
        self._book = book
        self._new_text = new_text
        self._trace_key = trace_key
        self._mode = mode
        self._raised: list[Exception] = []
        self._unfit: set[bytes] = set()

    async def ask(self, request: ClaudeRequest, answer_type: type[Answer]) -> ClaudeReply[Answer]:
        """The answer, from the record or from Claude; errors are those of Claude.ask.

        Raises:
            CallParkedError: Claude cannot be asked now, or answers in a message batch.
            BudgetExceededError: It could cost more than is left of a budget.
            LeaseLostError: Another worker has taken the run, or it was cancelled.
        """
        request = replace(request, trace_key=request.trace_key or self._trace_key)
        ask = self._ask_in_batch if self._mode is RunMode.BATCH else self._ask_live
        try:
            return await ask(request, answer_type)
        except Exception as error:
            self._raised.append(error)
            raise

    def forgotten_after(self, error: Exception) -> Forgotten:
        """Questions whose answers the error may be the fault of; None for all of them.

        Of an error that Claude or the network made, no answer is at fault.
        """
        is_of_a_call = any(error is raised for raised in self._raised)
        if is_of_a_call or isinstance(error, StepTransientError | CallParkedError):
            return tuple(self._unfit)
        return None

    def _name(
        self, request: ClaudeRequest, answer_type: type[BaseModel]
    ) -> tuple[CallName, Json | None]:
        """The name of the next call with this question, and what it was answered in an earlier try."""
        name, past = self._book.name(self._claude.question(request, answer_type))
        return name, _recall(past) if past is not None else None

    def _reread(
        self, questions: Iterable[bytes], kept: Json, answer_type: type[Answer]
    ) -> ClaudeReply[Answer]:
        """Read a kept answer; one that is of no use is not kept for the next try."""
        try:
            return self._claude.reread(kept, answer_type)
        except ClaudeError:
            self._unfit.update(questions)
            raise

    # --- live ---------------------------------------------------------------------------------
    async def _ask_live(
        self, request: ClaudeRequest, answer_type: type[Answer]
    ) -> ClaudeReply[Answer]:
        """Ask as soon as limits and budgets allow it."""
        name, kept = self._name(request, answer_type)
        if kept is not None:
            return self._reread([name.question], kept, answer_type)
        while True:
            ends = self._book.ends
            ticket, admitted = await self._admit(request, answer_type)
            try:
                call, ceiling_usd = await self._reserve(name, admitted, answer_type)
            except BudgetBusyError as busy:
                await self._admits.note_unmade(ticket)
                self._check_patience(busy)
                await self._book.next_end(after=ends)
            except BaseException:
                await self._admits.note_unmade(ticket)
                raise
            else:
                break
        if call.answer is not None:
            await self._admits.note_unmade(ticket)
            return self._reread([name.question], call.answer, answer_type)
        try:
            return await self._call(name, call, ticket, admitted, answer_type, ceiling_usd)
        finally:
            self._book.leave(call)

    async def _admit(
        self, request: ClaudeRequest, answer_type: type[BaseModel]
    ) -> tuple[Any, ClaudeRequest]:
        """Wait for the limits of the model, or of the other one while the model is overloaded."""
        try:
            return await self._admit_one(request, answer_type), request
        except BreakerOpenError:
            fallback = self._claude.fallback_of(request)
            if fallback is None:
                raise
        request = replace(request, model=fallback, allows_fallback=False)
        return await self._admit_one(request, answer_type), request

    async def _admit_one(self, request: ClaudeRequest, answer_type: type[BaseModel]) -> Any:
        estimate = self._claude.estimate(request, answer_type)
        return await self._admits.admit(
            estimate.model,
            input_tokens=estimate.input_tokens,
            output_tokens=estimate.output_tokens,
        )

    def _check_patience(self, busy: BudgetBusyError) -> None:
        """Whether waiting here for a call of this try can help.

        Raises:
            BudgetExceededError: Nobody else spends this run's budget.
            CallParkedError: Other runs of the key do.
        """
        if busy.scope != "run":
            wait_s = BUDGET_WAIT_S * (0.5 + random())  # noqa: S311 - no secret
            raise CallParkedError(wait_s=wait_s, reason="budget") from busy
        if not self._book.has_calls_under_way:
            message = "What is left of the run's budget is reserved for calls whose end nobody saw."
            raise BudgetExceededError(message) from busy

    async def _reserve(
        self,
        name: CallName,
        request: ClaudeRequest,
        answer_type: type[BaseModel],
        *,
        params: Json | None = None,
    ) -> tuple[OpenCall, Decimal | None]:
        """Reserve what the call can cost: by its bytes, or if that is too much, by its tokens.

        Returns the call, and what is reserved if it is less than by bytes.
        """
        is_batch = params is not None
        model = self._claude.estimate(request, answer_type).model
        worst_usd = self._claude.worst_case_usd(request, answer_type, is_batch=is_batch)
        try:
            call = await self._book.open(name, model=model, worst_usd=worst_usd, request=params)
        except (BudgetExceededError, BudgetBusyError):
            tokens = await self._claude.count_tokens(request, answer_type)
        else:
            return call, None
        worst_usd = self._claude.worst_case_usd(
            request, answer_type, input_tokens=tokens, is_batch=is_batch
        )
        call = await self._book.open(name, model=model, worst_usd=worst_usd, request=params)
        return call, worst_usd

    async def _call(
        self,
        name: CallName,
        call: OpenCall,
        ticket: Any,
        request: ClaudeRequest,
        answer_type: type[Answer],
        ceiling_usd: Decimal | None,
    ) -> ClaudeReply[Answer]:
        """Make a call that is open, and settle it."""
        try:
            reply = await self._claude.ask(
                request, answer_type, on_text=self._new_text(), ceiling_usd=ceiling_usd
            )
        except ClaudeError as error:
            await self._admits.note_error(
                ticket,
                fault_of(error),
                retry_after_s=error.retry_after_s,
                seen=error.seen_limits,
                usage=error.usage,
            )
            await self._book.settle_failed(name, call, error)
            raise
        except ClaudeNotConfiguredError:
            await self._admits.note_unmade(ticket)
            await self._book.settle_unmade(name, call)
            raise
        except BaseException:  # nobody sees the end of the call any more: it stays open
            await self._admits.note_error(ticket, CallFault.UNSEEN)
            raise
        await self._admits.note_answer(ticket, usage=reply.usage, seen=reply.seen_limits)
        await self._book.settle(
            name, call, usage=reply.usage, cost_usd=reply.cost_usd, answer=reply.kept
        )
        return reply

    # --- message batches ----------------------------------------------------------------------
    async def _ask_in_batch(
        self, request: ClaudeRequest, answer_type: type[Answer]
    ) -> ClaudeReply[Answer]:
        """Read the answer; each part of one that is continued is a call of its own.

        Raises:
            CallParkedError: A part has yet to come.
        """
        parts: list[Json] = []
        questions: list[bytes] = []
        following: ClaudeRequest | None = request
        while following is not None:
            name, kept = self._name(following, answer_type)
            if kept is None:
                kept = await self._leave_for_batch(name, following, answer_type)
            parts.append(kept)
            questions.append(name.question)
            following = _rest_of(request, parts)
        return self._reread(
            questions, parts[0] if len(parts) == 1 else join_kept(parts), answer_type
        )

    async def _leave_for_batch(
        self, name: CallName, request: ClaudeRequest, answer_type: type[BaseModel]
    ) -> Json:
        """Leave the question for a message batch.

        Raises:
            CallParkedError: Always, but for an answer that has come meanwhile.
        """
        model = self._claude.estimate(request, answer_type).model
        params = message_params(request, answer_type, model)
        try:
            call, _ = await self._reserve(name, request, answer_type, params=params)
        except BudgetBusyError as busy:
            if busy.scope == "run" and self._book.has_calls_in_batches:
                raise _waits_for_batch() from busy
            self._check_patience(busy)
            raise
        if call.answer is not None:
            return call.answer
        raise _waits_for_batch()


def _recall(past: PastCall) -> Json | None:
    """What a call of an earlier try was answered, or None if it is to be made again.

    Raises:
        CallParkedError: It is in a message batch.
        ClaudeError: It failed there.
    """
    if past.state is CallState.OPEN:
        return None
    if past.state in {CallState.WAITING, CallState.SUBMITTED}:
        raise _waits_for_batch()
    if past.state is CallState.ANSWERED:
        return past.answer or {}
    if past.answer is not None:
        raise reread_error(past.answer)
    return None


def _rest_of(request: ClaudeRequest, parts: Sequence[Json]) -> ClaudeRequest | None:
    """The question for what is missing of an answer, if that is to be asked."""
    if request.on_truncation is Truncation.FAIL:
        return None
    return following_request(request, read_kept(join_kept(parts)).messages)


def _waits_for_batch() -> CallParkedError:
    return CallParkedError(wait_s=BATCH_WAIT_S, reason="batch")
