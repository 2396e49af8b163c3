"""The calls of one try of a step, as they are in the record."""

import asyncio
from decimal import Decimal
from functools import partial
from typing import NamedTuple
from uuid import UUID

from services.core.errors import ClaudeError
from services.core.runs.models import CallOpening, Json, Lease, OpenCall, PastCall
from services.core.runs.states import CallState
from services.core.runs.store import RunStore
from services.core.usage import Usage
from services.worker.patience import until_store_answers

NO_USAGE, NO_COST = Usage(), Decimal(0)


class CallName(NamedTuple):
    """What tells a call from the others of its try."""

    question: bytes
    number: int


class CallBook:
    """Opens and settles the calls of one try; knows those of the tries before."""

    def __init__(self, store: RunStore, lease: Lease, step: str) -> None:
        self._store = store
        self._lease = lease
        self._step = step
        self._past = {
            CallName(call.question, call.number): call for call in lease.calls if call.step == step
        }
        self._has_calls_in_batches = any(
            call.state in {CallState.WAITING, CallState.SUBMITTED} for call in self._past.values()
        )
        self._numbers: dict[bytes, int] = {}
        # Lists, as they are short: thousands of tries wait for Claude, and an empty set has 216 bytes.
        self._under_way: list[UUID] = []
        self._settling: list[asyncio.Task[None]] = []
        self._ends = 0
        self._next_end: asyncio.Event | None = None  # most tries wait for none
        self.usage = NO_USAGE
        self.cost_usd = NO_COST

    def name(self, question: bytes) -> tuple[CallName, PastCall | None]:
        """The name of the next call with this question, and the call that was made under it before."""
        name = CallName(question, self._numbers.get(question, 0))
        self._numbers[question] = name.number + 1
        return name, self._past.get(name)

    @property
    def has_calls_in_batches(self) -> bool:
        """Whether results of message batches are yet to come."""
        return self._has_calls_in_batches

    @property
    def has_calls_under_way(self) -> bool:
        """Whether a call of this try will be settled."""
        return bool(self._under_way)

    @property
    def ends(self) -> int:
        """How many calls of this try have ended."""
        return self._ends

    async def next_end(self, *, after: int) -> None:
        """Wait until more calls of this try have ended than so many."""
        while self._ends <= after:
            if self._next_end is None:
                self._next_end = asyncio.Event()
            await self._next_end.wait()

    async def open(
        self,
        name: CallName,
        *,
        model: str,
        worst_usd: Decimal,
        request: Json | None = None,
    ) -> OpenCall:
        """Reserve what the call can cost; with its parameters, it waits for a message batch.

        Raises:
            BudgetExceededError: It could cost more than is left.
            BudgetBusyError: It may do so later.
            LeaseLostError: Another worker has taken the run, or it was cancelled.
        """
        opening = CallOpening(
            step=self._step,
            question=name.question,
            number=name.number,
            model=model,
            worst_usd=worst_usd,
            request=request,
            is_batch=request is not None,
        )
        call = await until_store_answers(partial(self._store.open_call, self._lease, opening))
        if call.answer is None and request is None:
            self._under_way.append(call.reservation)
        self._has_calls_in_batches |= request is not None
        return call

    async def settle(
        self, name: CallName, call: OpenCall, *, usage: Usage, cost_usd: Decimal, answer: Json
    ) -> None:
        """Keep an answer and what it cost."""
        await self._settle(name, call, usage, cost_usd, answer=answer)

    async def settle_failed(self, name: CallName, call: OpenCall, error: ClaudeError) -> None:
        """Keep what a failed call cost, as far as Claude has told it."""
        usage, cost_usd = error.usage or Usage(), error.cost_usd or Decimal(0)
        await self._settle(name, call, usage, cost_usd, is_doubtful=not error.is_cost_final)

    async def settle_unmade(self, name: CallName, call: OpenCall) -> None:
        """Give back what was reserved: nothing was sent."""
        await self._settle(name, call, Usage(), Decimal(0))

    def leave(self, call: OpenCall) -> None:
        """The call is over for this try, settled or not."""
        self._under_way.remove(call.reservation)
        self._ends += 1
        if self._next_end is not None:
            self._next_end.set()
            self._next_end = None

    async def _settle(
        self,
        name: CallName,
        call: OpenCall,
        usage: Usage,
        cost_usd: Decimal,
        *,
        answer: Json | None = None,
        is_doubtful: bool = False,
    ) -> None:
        """Settle, also if the try is ended meanwhile: what is paid for is worth keeping."""
        self.usage += usage
        self.cost_usd += cost_usd
        write = partial(
            self._store.settle_call,
            self._lease.run_id,
            self._step,
            name.question,
            name.number,
            call.reservation,
            usage=usage,
            cost_usd=cost_usd,
            answer=answer,
            is_failed=answer is None,
            is_doubtful=is_doubtful,
        )
        settling = asyncio.create_task(until_store_answers(write))
        self._settling.append(settling)
        settling.add_done_callback(self._settling.remove)
        await asyncio.shield(settling)
