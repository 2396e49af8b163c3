"""The limits of Claude that all workers of all hosts share: one row of the record per model."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from random import random as random_number
from time import monotonic

from services.core.db import Database
from services.core.errors import BreakerOpenError, CallParkedError, StoreUnavailableError
from services.core.rate_limits import SeenLimits
from services.core.runs.encoding import encode_json
from services.core.runs.limit_admission import Admission, ComeAgain, Demand, Go, decide
from services.core.runs.limit_learning import CallFault, LimitRules, Note, learn
from services.core.runs.limit_state import LimitState
from services.core.runs.sql import statement
from services.core.usage import Usage

logger = logging.getLogger(__name__)

__all__ = ["Admission", "CallFault", "CallLimiter", "LimitRules"]

MAX_CALLERS = 500
"""Callers of one transaction; more only make it longer."""
NOTES_DELAY_S = 0.1
"""Seconds that answers wait for callers to share a transaction with."""

# By the database's clock, the same for all hosts. clock_timestamp(), as now() is when the
# transaction began, and others may have held the row since.
LOCK_LIMITS = statement(
    """
    SELECT state, extract(epoch FROM clock_timestamp())::double precision AS now_s
      FROM claude_limits WHERE model = :model
       FOR UPDATE
    """
)

ADD_LIMITS = statement(
    """
    INSERT INTO claude_limits (model, state) VALUES (:model, '{}') ON CONFLICT (model) DO NOTHING
    """
)

SAVE_LIMITS = statement(
    """
    UPDATE claude_limits SET state = CAST(:state AS jsonb), updated_at = now()
     WHERE model = :model
    """
)


@dataclass(frozen=True, slots=True)
class _Caller:
    """Someone who waits for a decision."""

    demand: Demand
    decision: asyncio.Future[Go | ComeAgain]


@dataclass(slots=True)
class _Desk:
    """What one process has to settle about one model."""

    model: str
    callers: list[_Caller] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    clerk: asyncio.Task[None] | None = None
    is_urgent: asyncio.Event = field(default_factory=asyncio.Event)


class CallLimiter:
    """Admits calls at the rate that Claude allows; shares claude_limits with all processes.

    Callers of one process are gathered: while one transaction is on its way, the next batch
    gathers. A limiter belongs to one event loop.
    """

    def __init__(
        self,
        database: Database,
        *,
        rules: LimitRules | None = None,
        random: Callable[[], float] = random_number,
    ) -> None:
        """Take the record; nothing connects yet.

        Args:
            database: Where the record is.
            rules: What settings say of limits.
            random: Gives a number in [0, 1).
        """
        self._database = database
        self._rules = rules or LimitRules()
        self._random = random
        self._desks: dict[str, _Desk] = {}

    async def admit(self, model: str, *, input_tokens: int, output_tokens: int) -> Admission:
        """Wait for up to about a second until the call may be made.

        Args:
            model: Whose limits count.
            input_tokens: Estimate, without what will be read from the cache.
            output_tokens: Estimate.

        Raises:
            CallParkedError: There is no room for now (reason "rate_limit").
            BreakerOpenError: Claude is overloaded; another model may be asked. A CallParkedError
                with reason "overload".
            StoreUnavailableError: No answer in time.
        """
        desk = self._desks.setdefault(model, _Desk(model))
        decision = await self._ask(desk, Demand(input_tokens, output_tokens))
        if isinstance(decision, ComeAgain):
            if decision.is_breaker_open:
                raise BreakerOpenError(wait_s=decision.wait_s)
            raise CallParkedError(wait_s=decision.wait_s, reason="rate_limit")
        try:
            await asyncio.sleep(decision.delay_s)
        except asyncio.CancelledError:
            self._note(desk, Note(decision.admission, is_made=False))
            raise
        return decision.admission

    async def note_answer(
        self, ticket: Admission, *, usage: Usage, seen: SeenLimits | None
    ) -> None:
        """Replace the estimates by what was used, and learn from what the headers said.

        Like all notes it returns at once, never fails, and is lost while PostgreSQL is away.
        """
        note = Note(ticket, usage=usage, seen=seen, seen_ago_s=_ago_s(seen))
        self._note(self._desk_of(ticket), note)

    async def note_error(
        self,
        ticket: Admission,
        fault: CallFault,
        *,
        retry_after_s: float | None = None,
        seen: SeenLimits | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Slow everybody down, as the fault demands. Usage: if the failed call reported one."""
        note = Note(
            ticket,
            usage=usage,
            seen=seen,
            seen_ago_s=_ago_s(seen),
            fault=fault,
            retry_after_s=retry_after_s,
        )
        self._note(self._desk_of(ticket), note)

    async def note_unmade(self, ticket: Admission) -> None:
        """Give the room back: the call was not made, for lack of budget for instance."""
        self._note(self._desk_of(ticket), Note(ticket, is_made=False))

    async def drain(self) -> None:
        """Wait until everything noted so far is written, or lost."""
        while clerks := [desk.clerk for desk in self._desks.values() if desk.clerk is not None]:
            for desk in self._desks.values():
                desk.is_urgent.set()
            await asyncio.wait(clerks)

    def _desk_of(self, ticket: Admission) -> _Desk:
        return self._desks.setdefault(ticket.model, _Desk(ticket.model))

    async def _ask(self, desk: _Desk, demand: Demand) -> Go | ComeAgain:
        """Queue up for the next transaction, and wait for its decision."""
        caller = _Caller(demand, asyncio.get_running_loop().create_future())
        desk.callers.append(caller)
        desk.is_urgent.set()
        self._employ(desk)
        try:
            return await caller.decision
        except asyncio.CancelledError:
            if caller.decision.done() and not caller.decision.cancelled():
                self._give_back(desk, caller.decision.result())  # decided, and left at that moment
            raise

    def _note(self, desk: _Desk, note: Note) -> None:
        """Queue up for the next transaction, and go."""
        desk.notes.append(note)
        if note.fault is not None:
            desk.is_urgent.set()
        self._employ(desk)

    def _give_back(self, desk: _Desk, decision: Go | ComeAgain) -> None:
        if isinstance(decision, Go):
            self._note(desk, Note(decision.admission, is_made=False))

    def _employ(self, desk: _Desk) -> None:
        """See to it that somebody works off the desk."""
        if desk.clerk is None:
            # In an empty context: a batch belongs to no caller's span.
            desk.clerk = asyncio.create_task(self._work(desk), context=Context())

    async def _work(self, desk: _Desk) -> None:
        """Settle batch after batch until nothing is left."""
        try:
            while desk.callers or desk.notes:
                if not desk.callers:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(desk.is_urgent.wait(), NOTES_DELAY_S)
                desk.is_urgent.clear()
                await self._settle(desk)
        finally:
            desk.clerk = None

    async def _settle(self, desk: _Desk) -> None:
        """Settle one batch, and tell its callers."""
        waiting, desk.callers = desk.callers[:MAX_CALLERS], desk.callers[MAX_CALLERS:]
        notes, desk.notes = desk.notes, []
        callers = [caller for caller in waiting if not caller.decision.done()]
        try:
            demands = [caller.demand for caller in callers]
            decisions = await self._commit(desk.model, demands, notes)
        except Exception as error:  # noqa: BLE001 - it belongs to the callers, who wait for it
            _refuse(callers, error)
        else:
            for caller, decision in zip(callers, decisions, strict=True):
                if caller.decision.done():
                    self._give_back(desk, decision)
                else:
                    caller.decision.set_result(decision)
        finally:
            for caller in callers:
                caller.decision.cancel()  # no effect on those that were told

    async def _commit(
        self, model: str, demands: Sequence[Demand], notes: Sequence[Note]
    ) -> list[Go | ComeAgain]:
        """Learn and decide in one transaction, alone with the model's row."""
        async with self._database.transaction() as session:
            rows = await session.fetch(LOCK_LIMITS, {"model": model})
            if not rows:
                await session.fetch(ADD_LIMITS, {"model": model})
                rows = await session.fetch(LOCK_LIMITS, {"model": model})
            [found] = rows
            state = LimitState.from_json(found.state)
            now_s = max(found.now_s, state.at_s)
            state.advance(now_s, self._rules.caps)
            for note in notes:
                learn(state, note, rules=self._rules, now_s=now_s)
            decisions = [
                decide(state, model, demand, now_s=now_s, random=self._random) for demand in demands
            ]
            saved = {"model": model, "state": encode_json(state.to_json())}
            await session.fetch(SAVE_LIMITS, saved)
        return decisions


def _ago_s(seen: SeenLimits | None) -> float:
    """Seconds since headers came."""
    return monotonic() - seen.arrived_s if seen is not None else 0.0


def _refuse(callers: Sequence[_Caller], error: Exception) -> None:
    """Raise the error in the callers; each gets its own absence, as a traceback grows."""
    if not isinstance(error, StoreUnavailableError):
        logger.error("the limits of Claude could not be kept", exc_info=error)
    for caller in callers:
        if not caller.decision.done():
            caller.decision.set_exception(_own(error))


def _own(error: Exception) -> Exception:
    """The same absence of PostgreSQL once more; any other error as it is."""
    if not isinstance(error, StoreUnavailableError):
        return error
    own = type(error)(str(error))
    own.__cause__ = error.__cause__
    return own
