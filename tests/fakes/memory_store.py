"""RunStore without PostgreSQL, for unit tests: one dict of runs, the same promises to a worker."""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from services.core.errors import LeaseLostError, StoreUnavailableError
from services.core.runs.budgets import Purse
from services.core.runs.models import (
    CallOpening,
    Checkpoint,
    DueHint,
    Failure,
    Forgotten,
    Json,
    Lease,
    NewEmail,
    OpenCall,
    PastCall,
)
from services.core.runs.states import CallState, RunMode, RunState
from services.core.usage import Usage


def _purse(scope: str) -> Purse:
    return Purse(scope, None, Decimal(0), Decimal(0), Decimal(0))


@dataclass
class CallRow:
    """One call, as the fake keeps it."""

    opening: CallOpening
    state: CallState
    answer: Json | None = None
    is_doubtful: bool = False


@dataclass
class MemoryRun:
    """One run, as the fake keeps it."""

    lease: Lease
    state: RunState = RunState.QUEUED
    priority: int = 0
    due_in_s: float = 0
    """Seconds until it is due; what retry_run was given."""
    output: Json | None = None
    email: NewEmail | None = None
    failure: Failure | None = None
    releases: int = 0
    release_delays_s: list[float] = field(default_factory=list)
    releases_cleared: list[bool] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    purse: Purse = field(default_factory=lambda: _purse("run"))
    """Its budget."""
    calls: dict[tuple[str, bytes, int], CallRow] = field(default_factory=dict)
    forgotten: list[Forgotten] = field(default_factory=list)
    """What retry_run and fail_run were given."""
    parkings: list[tuple[str, float, str]] = field(default_factory=list)
    is_isolated: bool = False
    owner: str | None = None
    """Who claimed it last."""

    @property
    def cost_usd(self) -> Decimal:
        """What its calls cost."""
        return self.purse.cost_usd


class MemoryRunStore:
    """The worker's half of RunStore."""

    def __init__(self) -> None:
        self.runs: dict[UUID, MemoryRun] = {}
        self.heartbeats: list[tuple[str, str]] = []
        self.shapes: dict[str, tuple[str, ...]] = {}
        """What each process said that it can execute."""
        self.burials: list[tuple[str, UUID | None]] = []
        self.claims: list[int] = []
        """The limit of each claim."""
        self.is_away = False
        self.keys: dict[UUID, Purse] = defaultdict(lambda: _purse("key"))
        """The budget of each key's day."""

    # --- what tests do ------------------------------------------------------------------------
    def add_run(
        self,
        pipeline: str = "tiny",
        input: Json | None = None,  # noqa: A002 - the record's word
        *,
        remaining_s: float = 86400.0,
        shape: str | None = None,
        is_on_probation: bool = False,
        mode: RunMode = RunMode.LIVE,
        **changes: Any,
    ) -> MemoryRun:
        """A queued run; without a shape, anybody's."""
        lease = Lease(
            run_id=uuid4(),
            key_id=UUID(int=1),
            fence=0,
            pipeline=pipeline,
            input=input if input is not None else {"text": "a"},
            checkpoints={},
            step_attempts={"ask": 0, "sign": 0},
            traceparent=None,
            created_at=datetime(2026, 11, 1, tzinfo=UTC),
            remaining_s=remaining_s,
            shape=shape,
            is_on_probation=is_on_probation,
            mode=mode,
        )
        run = MemoryRun(lease, **changes)
        self.runs[lease.run_id] = run
        return run

    def steal(self, run: MemoryRun) -> None:
        """Let another worker take a running run."""
        run.lease = replace(run.lease, fence=run.lease.fence + 1)

    def states(self) -> list[RunState]:
        """The states of all runs, in the order in which they were added."""
        return [run.state for run in self.runs.values()]

    # --- RunStore -----------------------------------------------------------------------------
    async def claim_due_runs(
        self, *, owner: str, limit: int, shapes: Collection[str] = ()
    ) -> list[Lease]:
        self._check()
        self.claims.append(limit)
        due = [
            r
            for r in self.runs.values()
            if r.due_in_s <= 0 and not r.is_isolated and _is_claimable(r, shapes)
        ]
        return [self._claim(run, owner) for run in due[:limit]]

    async def claim_isolated_run(
        self, run_id: UUID, *, owner: str, shapes: Collection[str] = ()
    ) -> Lease | None:
        self._check()
        run = self.runs[run_id]
        is_due = run.is_isolated and _is_claimable(run, shapes)
        return self._claim(run, owner) if is_due else None

    async def find_held(self, leases: Collection[Lease]) -> set[UUID]:
        self._check()
        return {lease.run_id for lease in leases if self._is_held(lease)}

    async def renew_leases(self, leases: Collection[Lease]) -> set[UUID]:
        self._check()
        return {lease.run_id for lease in leases if self._is_held(lease)}

    async def start_step(self, lease: Lease, step: str) -> int:
        run = self._held(lease)
        run.tries[step] += 1
        return run.tries[step]

    async def record_checkpoint(
        self, lease: Lease, checkpoint: Checkpoint, *, next_step: str | None = None
    ) -> int | None:
        run = self._held(lease)
        self._keep(run, checkpoint)
        return None if next_step is None else await self.start_step(lease, next_step)

    async def finish_run(
        self,
        lease: Lease,
        output: Json,
        email: NewEmail | None = None,
        *,
        step: str | None = None,
    ) -> None:
        run = self._held(lease)
        if step is not None:
            self._keep(run, Checkpoint(step, output))
        run.state, run.output, run.email = RunState.SUCCEEDED, output, email

    async def retry_run(
        self,
        lease: Lease,
        *,
        step: str,
        error: str,
        delay_s: float,
        is_counted: bool = True,
        forgotten: Forgotten = (),
    ) -> None:
        run = self._held(lease)
        run.state, run.due_in_s = RunState.QUEUED, delay_s
        run.lease.step_attempts[step] += is_counted
        run.errors.append(error)
        run.forgotten.append(forgotten)
        run.calls = {
            key: row
            for key, row in run.calls.items()
            if forgotten is not None and key[1] not in forgotten
        }

    async def park_run(self, lease: Lease, *, step: str, wait_s: float, reason: str) -> None:
        run = self._held(lease)
        run.state, run.due_in_s = RunState.QUEUED, wait_s
        run.tries[step] -= 1
        run.parkings.append((step, wait_s, reason))

    async def open_call(self, lease: Lease, opening: CallOpening) -> OpenCall:
        run = self._held(lease)
        key = (opening.step, opening.question, opening.number)
        past = run.calls.get(key)
        if past is not None and past.state not in {CallState.OPEN, CallState.FAILED}:
            return OpenCall(past.opening.reservation, past.answer)
        purses = (run.purse, self.keys[lease.key_id])
        for purse in purses:
            if past is not None and past.state is CallState.OPEN:
                purse.doubt(past.opening.worst_usd)
        for purse in purses:
            if refusal := purse.refusal(opening.worst_usd):
                raise refusal
        for purse in purses:
            purse.reserve(opening.worst_usd)
        state = CallState.WAITING if opening.is_batch else CallState.OPEN
        run.calls[key] = CallRow(opening, state)
        return OpenCall(opening.reservation)

    async def settle_call(  # noqa: PLR0913 - as RunStore
        self,
        run_id: UUID,
        step: str,
        question: bytes,
        number: int,
        reservation: UUID,
        *,
        usage: Usage,
        cost_usd: Decimal,
        answer: Json | None,
        is_failed: bool = False,
        is_doubtful: bool = False,
    ) -> None:
        self._check()
        run = self.runs[run_id]
        row = run.calls[step, question, number]
        assert row.opening.reservation == reservation
        row.state = CallState.FAILED if is_failed else CallState.ANSWERED
        row.answer, row.is_doubtful = answer, is_doubtful
        run.usage += usage
        for purse in (run.purse, self.keys[run.lease.key_id]):
            purse.reserved_usd -= row.opening.worst_usd
            purse.cost_usd += cost_usd

    async def release_run(
        self, lease: Lease, *, delay_s: float = 0.0, is_cleared: bool = False
    ) -> None:
        run = self._held(lease)
        run.state, run.due_in_s = RunState.QUEUED, delay_s
        run.releases += 1
        run.release_delays_s.append(delay_s)
        run.releases_cleared.append(is_cleared)

    async def fail_run(self, lease: Lease, failure: Failure, *, forgotten: Forgotten = ()) -> None:
        run = self._held(lease)
        run.state, run.failure = RunState.FAILED, failure
        run.forgotten.append(forgotten)

    async def requeue_lapsed_runs(self, *, limit: int = 500) -> int:
        self._check()
        return 0

    async def bury_process(self, owner: str, *, culprit: UUID | None) -> int:
        self._check()
        self.burials.append((owner, culprit))
        runs = self.runs.values()
        held = [r for r in runs if r.state is RunState.RUNNING and r.owner == owner]
        for run in held:
            run.state = RunState.QUEUED
            run.is_isolated = run.is_isolated or run.lease.run_id == culprit
        return len(held)

    async def take_due_hints(self, *, limit: int = 500) -> list[DueHint]:
        self._check()
        due = [run for run in self.runs.values() if run.state is RunState.QUEUED]
        return [DueHint(run.lease.run_id, run.is_isolated) for run in due[:limit]]

    async def record_heartbeat(
        self, *, process: str, kind: str, shapes: Collection[str] = ()
    ) -> None:
        self._check()
        self.heartbeats.append((process, kind))
        self.shapes[process] = tuple(shapes)

    def _claim(self, run: MemoryRun, owner: str) -> Lease:
        run.state, run.owner = RunState.RUNNING, owner
        calls = tuple(
            PastCall(*key, row.state, row.answer, row.opening.reservation)
            for key, row in run.calls.items()
        )
        run.lease = replace(run.lease, fence=run.lease.fence + 1, calls=calls)
        return run.lease

    def _keep(self, run: MemoryRun, checkpoint: Checkpoint) -> None:
        run.lease.checkpoints[checkpoint.step] = checkpoint.output
        run.calls = {key: row for key, row in run.calls.items() if key[0] != checkpoint.step}

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailableError

    def _is_held(self, lease: Lease) -> bool:
        run = self.runs[lease.run_id]
        return run.state is RunState.RUNNING and run.lease.fence == lease.fence

    def _held(self, lease: Lease) -> MemoryRun:
        self._check()
        if not self._is_held(lease):
            raise LeaseLostError
        return self.runs[lease.run_id]


def _is_claimable(run: MemoryRun, shapes: Collection[str]) -> bool:
    return run.state is RunState.QUEUED and (run.lease.shape is None or run.lease.shape in shapes)
