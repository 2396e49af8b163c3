"""Whatever callers do, in whatever order: the record does what a pure model of it does."""

import asyncio
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.errors import (
    IdempotencyConflictError,
    LeaseLostError,
    ReplayStepError,
    RunNotCancellableError,
    RunNotReplayableError,
)
from services.core.pool import Pool
from services.core.runs.models import (
    ApiKey,
    CallOpening,
    Checkpoint,
    Failure,
    Forgotten,
    Lease,
    NewRun,
    shape_of,
)
from services.core.runs.states import (
    FINAL_STATES,
    NEXT_STATE,
    EventType,
    FailureReason,
    RunState,
    StepState,
    Transition,
)
from services.core.runs.store import RunStore
from services.core.runs.sweeps import SUSPECT_LAPSES
from services.core.usage import Usage
from services.migrate.engine import create_engine
from tests.integration.core.runs.pieces import opening, settle

Result = TypeVar("Result")
STEPS = ("one", "two")
SHAPES = (shape_of("p", STEPS),)
USAGE = Usage(input_tokens=1)
COST = Decimal("0.1")
WORST = Decimal("0.3")
ANSWER = {"said": "yes"}
CALL_STATES = ("open", "answered", "failed")
MAX_CRASHES = 2
RUN_TIMEOUT_S = 3600
# No foreign key says it.
ASSERT_NO_ORPHANS = """
    DO $$
    BEGIN
        ASSERT NOT EXISTS (SELECT FROM steps WHERE run_id NOT IN (SELECT id FROM runs)), 'a step';
        ASSERT NOT EXISTS (SELECT FROM events WHERE run_id NOT IN (SELECT id FROM runs)), 'an event';
    END $$
"""
LEASE_TTL_S = 0.001  # every lease has lapsed by the time that somebody sweeps


@dataclass
class ModelStep:
    """What a step should be."""

    state: StepState = StepState.PENDING
    attempts: int = 0
    failures: int = 0
    output: dict[str, Any] | None = None
    paid: int = 0
    call: str | None = None
    """What became of its one question: open, answered, failed; None if it is not in the record."""


@dataclass
class ModelRun:
    """What a run should be."""

    state: RunState = RunState.QUEUED
    fence: int = 0
    owner: str = ""
    crashes: int = 0
    lapses: int = 0
    is_isolated: bool = False
    replays: int = 0
    has_started: bool = False
    reason: FailureReason | None = None
    attempts: int = 0
    is_due: bool = True
    paid: int = 0
    reserved: int = 0
    doubtful: int = 0
    """Calls, as all cost the same at worst."""
    steps: dict[str, ModelStep] = field(default_factory=lambda: {n: ModelStep() for n in STEPS})
    events: list[EventType] = field(default_factory=lambda: [EventType.RUN_QUEUED])

    def go(self, transition: Transition) -> None:
        """Change the state as the table says; a run that ends badly waits for no call any more."""
        self.state = NEXT_STATE[self.state, transition]
        if self.state in {RunState.FAILED, RunState.CANCELLED}:
            for name in STEPS:
                self.forget_call(name, only=("open",))

    def holds(self, lease: Lease) -> bool:
        """Whether the lease is the one that counts."""
        return self.state is RunState.RUNNING and self.fence == lease.fence

    def claim(self) -> None:
        """Somebody takes the run."""
        self.go(Transition.CLAIM)
        self.fence += 1
        self.attempts += 1
        if not self.has_started:
            self.events.append(EventType.RUN_STARTED)
        self.has_started = True
        if step := self.first_open():
            step.state = StepState.RUNNING
            step.attempts += 1
            self.events.append(EventType.STEP_STARTED)

    def first_open(self) -> ModelStep | None:
        """The first step without a checkpoint."""
        steps = self.steps.values()
        return next((step for step in steps if step.state is not StepState.SUCCEEDED), None)

    def lose_holder(self, *, is_charged: bool, is_shared: bool, is_overdue: bool) -> None:
        """The process is dead; whose fault was it?"""
        self.crashes += is_charged
        self.lapses += is_shared
        self.is_isolated = self.is_isolated or is_charged or self.lapses >= SUSPECT_LAPSES
        self.is_due = True
        if is_charged and self.crashes >= MAX_CRASHES:
            self.end_badly(Transition.CRASH_OUT, FailureReason.CRASHED)
        elif is_overdue:
            self.end_badly(Transition.EXPIRE, FailureReason.TIMED_OUT)
        else:
            self.go(Transition.LAPSE)
            self.stop_steps(StepState.PENDING)

    def end_badly(self, transition: Transition, reason: FailureReason) -> None:
        """Nobody holds the run, and nobody will."""
        self.go(transition)
        self.reason = reason
        self.events.append(EventType.RUN_FAILED)
        self.stop_steps(StepState.FAILED)

    def begin_again(self, start: int, *, forgets: bool) -> None:
        """A replay: the same run, a new attempt."""
        self.go(Transition.REPLAY)
        self.replays += 1
        self.crashes = self.lapses = 0
        self.is_isolated = self.is_isolated and self.reason is FailureReason.CRASHED
        self.has_started, self.reason, self.is_due = False, None, True
        self.events.append(EventType.RUN_QUEUED)
        for name in STEPS[start:]:
            step = self.steps[name]
            step.state, step.failures, step.output = StepState.PENDING, 0, None
            self.forget_call(name, only=CALL_STATES if forgets else ("failed",))

    def forget_call(self, name: str, *, only: Collection[str] = CALL_STATES) -> None:
        """A step's question is not in the record any more; nobody will see the end of an open call."""
        step = self.steps[name]
        if step.call not in only:
            return
        if step.call == "open":
            self.reserved -= 1
            self.doubtful += 1
        step.call = None

    def runs_another(self, step: str) -> bool:
        """Whether another step is running."""
        return any(
            other.state is StepState.RUNNING for name, other in self.steps.items() if name != step
        )

    def stop_steps(self, state: StepState) -> None:
        """The running step, if any, runs no more."""
        for step in self.steps.values():
            if step.state is StepState.RUNNING:
                step.state = state


OWNERS = st.sampled_from(["w1", "w2"])
RUN_IDS = st.runner().flatmap(lambda machine: st.sampled_from(list(machine.model)))
# Mostly leases that hold, and some of those that were lost.
LEASES = st.runner().flatmap(lambda machine: st.sampled_from(machine.held() * 3 + machine.leases))

CALLS = st.runner().flatmap(lambda machine: st.sampled_from(machine.calls))


@dataclass
class PlacedCall:
    """A call that a step has made."""

    lease: Lease
    opening: CallOpening
    reservation: UUID
    is_settled: bool = False


class RecordMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side."""

    settings: PostgresSettings

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.engine = create_engine(self.settings)
        self.store = RunStore(
            Pool(self.settings),
            lease_ttl_s=LEASE_TTL_S,
            max_crashes=MAX_CRASHES,
            rehint_after_s=3600,
            max_queued_runs=1000,
            run_timeout_s=RUN_TIMEOUT_S,
        )
        self.model: dict[UUID, ModelRun] = {}
        self.leases: list[Lease] = []
        self.calls: list[PlacedCall] = []
        self.by_idempotency_key: dict[str, tuple[bytes, UUID]] = {}

    def teardown(self) -> None:
        """Compare everything once more."""
        try:
            for run_id in self.model:
                self.compare(run_id)
            self.sql(ASSERT_NO_ORPHANS)
            self.sql("DELETE FROM runs WHERE id = (SELECT id FROM runs LIMIT 1)")
            self.sql(ASSERT_NO_ORPHANS)
        finally:
            self.do(self.store.close())
            self.runner.run(self.engine.dispose())
            self.runner.close()

    def do(self, awaitable: Awaitable[Result]) -> Result:
        """Wait for the store."""

        async def wait() -> Result:
            return await awaitable

        return self.runner.run(wait())

    def sql(self, statement: str) -> None:
        """Change the record behind the store's back, as only time would."""

        async def run() -> None:
            async with self.engine.begin() as connection:
                await connection.execute(text(statement))

        self.runner.run(run())

    def held(self) -> list[Lease]:
        """The leases that hold."""
        return [lease for lease in self.leases if self.model[lease.run_id].holds(lease)]

    def compare(self, run_id: UUID) -> None:
        """The record says what the model says."""
        expected = self.model[run_id]
        run = self.do(self.store.get_run(self.key.id, run_id))
        assert expected.state == run.state
        assert (expected.crashes, expected.lapses) == (run.crashes, run.lapses)
        assert (expected.attempts, expected.replays) == (run.attempts, run.replays)
        assert expected.reason == (run.failure.reason if run.failure else None)
        assert Usage(input_tokens=expected.paid) == run.usage
        assert expected.paid * COST == run.cost_usd
        assert expected.reserved * WORST == run.reserved_usd
        assert expected.doubtful * WORST == run.doubtful_usd
        assert (run.finished_at is not None) == (expected.state in FINAL_STATES)
        for step in run.steps:
            wanted = expected.steps[step.name]
            assert (wanted.state, wanted.attempts) == (step.state, step.attempts)
            assert wanted.output == step.output
            assert wanted.paid * COST == step.cost_usd
        events = self.do(self.store.list_events({run_id: 0}))
        assert list(range(1, len(events) + 1)) == [event.seq for event in events]
        assert expected.events == [event.type for event in events]
        if expected.replays:
            history = self.do(self.store.list_history(self.key.id, run_id))
            assert list(range(1, expected.replays + 1)) == [past.number for past in history]

    def fenced(self, lease: Lease, awaitable: Awaitable[Any]) -> bool:
        """Do something under a lease; whether it took effect, which the model must know before."""
        holds = self.model[lease.run_id].holds(lease)
        if holds:
            self.do(awaitable)
        else:
            with pytest.raises(LeaseLostError):
                self.do(awaitable)
        return holds

    @initialize()
    def begin(self) -> None:
        """Start from an empty record."""
        self.sql("TRUNCATE api_keys, steps, events CASCADE")
        self.key: ApiKey = self.do(
            self.store.add_key(name="k", prefix="0" * 12, key_hash=b"0" * 32)
        )
        self.keep_busy()

    @invariant()
    def keep_busy(self) -> None:
        """Somebody always holds a run: else most calls would be those of zombies."""
        if not self.held():
            self.accept(idempotency_key=None, body=b"1")
            self.claim(limit=1, owner="w1")

    @rule(
        idempotency_key=st.sampled_from([None, "a", "b"]),
        body=st.sampled_from([b"1", b"2"]),
    )
    def accept(self, idempotency_key: str | None, body: bytes) -> None:
        """A client posts, perhaps again."""
        new = NewRun(
            key_id=self.key.id,
            pipeline="p",
            input={},
            step_names=STEPS,
            idempotency_key=idempotency_key,
            request_hash=body,
        )
        before = self.by_idempotency_key.get(idempotency_key or "")
        if before is not None and before[0] != body:
            with pytest.raises(IdempotencyConflictError):
                self.do(self.store.accept_run(new))
            return
        run, is_new = self.do(self.store.accept_run(new))
        assert is_new == (before is None)
        if before is not None:
            assert before[1] == run.id
            return
        self.model[run.id] = ModelRun()
        if idempotency_key is not None:
            self.by_idempotency_key[idempotency_key] = (body, run.id)

    @rule(limit=st.integers(1, 3), owner=OWNERS)
    def claim(self, limit: int, owner: str) -> None:
        """A worker claims what is due."""
        due = [
            run_id
            for run_id, run in self.model.items()
            if run.state is RunState.QUEUED and run.is_due and not run.is_isolated
        ]
        claiming = self.store.claim_due_runs(owner=owner, limit=limit, shapes=SHAPES)
        claimed = self.do(claiming)
        assert {lease.run_id for lease in claimed} <= set(due)
        assert len(claimed) == min(limit, len(due))
        for lease in claimed:
            self.check_lease(lease, owner)

    @rule(run_id=RUN_IDS)
    def claim_isolated(self, run_id: UUID) -> None:
        """An isolated worker follows a hint, which may be wrong."""
        run = self.model[run_id]
        lease = self.do(self.store.claim_isolated_run(run_id, owner="i", shapes=SHAPES))
        is_due = run.state is RunState.QUEUED and run.is_due and run.is_isolated
        assert is_due == (lease is not None)
        if lease is not None:
            self.check_lease(lease, "i")

    def check_lease(self, lease: Lease, owner: str) -> None:
        """A lease carries what the model says."""
        self.leases.append(lease)
        run = self.model[lease.run_id]
        run.claim()
        run.owner = owner
        assert 0 < lease.remaining_s <= RUN_TIMEOUT_S
        assert run.fence == lease.fence
        started = run.first_open()
        assert lease.started_attempt == (started.attempts if started else None)
        done = {n: s.output for n, s in run.steps.items() if s.state is StepState.SUCCEEDED}
        assert done == lease.checkpoints
        assert {n: s.failures for n, s in run.steps.items()} == lease.step_attempts
        calls = {n: s.call for n, s in run.steps.items() if s.call is not None}
        assert calls == {call.step: call.state for call in lease.calls}

    @rule(lease=LEASES, step=st.sampled_from(STEPS))
    def start_step(self, lease: Lease, step: str) -> None:
        """A holder, or one that was, starts a step; one after the other, as pipelines do."""
        run = self.model[lease.run_id]
        if run.holds(lease) and run.runs_another(step):
            return
        if run.holds(lease) and run.steps[step].state is StepState.SUCCEEDED:
            with pytest.raises(ValueError, match="done already"):
                self.do(self.store.start_step(lease, step))
        elif self.fenced(lease, self.store.start_step(lease, step)):
            run.steps[step].state = StepState.RUNNING
            run.steps[step].attempts += 1
            run.events.append(EventType.STEP_STARTED)

    @rule(
        lease=LEASES,
        step=st.sampled_from(STEPS),
        numbers=st.lists(st.integers(), min_size=1, max_size=2),
    )
    def checkpoint(self, lease: Lease, step: str, numbers: list[int]) -> None:
        """A step is done, perhaps told twice, with another output."""
        run = self.model[lease.run_id]
        for number in numbers:
            checkpoint = Checkpoint(step, {"n": number})
            is_first = run.steps[step].state is not StepState.SUCCEEDED
            if self.fenced(lease, self.store.record_checkpoint(lease, checkpoint)) and is_first:
                run.lapses = 0
                run.steps[step].state = StepState.SUCCEEDED
                run.steps[step].output = checkpoint.output
                run.forget_call(step)
                run.events.append(EventType.STEP_SUCCEEDED)

    @rule(lease=LEASES)
    def finish(self, lease: Lease) -> None:
        """The last step is done."""
        if self.fenced(lease, self.store.finish_run(lease, {"o": 1})):
            self.model[lease.run_id].go(Transition.FINISH)
            self.model[lease.run_id].events.append(EventType.RUN_SUCCEEDED)

    @rule(lease=LEASES, step=st.sampled_from(STEPS))
    def open_call(self, lease: Lease, step: str) -> None:
        """A step is about to ask Claude its one question, perhaps again."""
        run = self.model[lease.run_id]
        if run.holds(lease) and run.steps[step].state is StepState.SUCCEEDED:
            return
        call = opening(step, worst_usd=WORST)
        opening_it = self.store.open_call(lease, call)
        if not run.holds(lease):
            assert not self.fenced(lease, opening_it)
            return
        opened = self.do(opening_it)
        if run.steps[step].call == "answered":
            assert opened.answer == ANSWER
            return
        run.forget_call(step)
        run.steps[step].call = "open"
        run.reserved += 1
        self.calls.append(PlacedCall(lease, call, opened.reservation))

    @precondition(lambda machine: machine.calls)
    @rule(call=CALLS, is_failed=st.booleans())
    def settle_call(self, call: "PlacedCall", is_failed: bool) -> None:  # noqa: FBT001 - drawn
        """Claude's answer comes, or comes again, whoever holds the run by now."""
        usual = {"answer": None if is_failed else ANSWER, "usage": USAGE, "cost_usd": COST}
        settling = settle(
            self.store, call.lease, call.opening, call.reservation, is_failed=is_failed, **usual
        )
        self.do(settling)
        if call.is_settled:
            return
        call.is_settled = True
        run = self.model[call.lease.run_id]
        step = run.steps[call.opening.step]
        run.paid += 1
        step.paid += 1
        if step.call == "open" and self.newest_call(call) is call:
            run.reserved -= 1
            step.call = "failed" if is_failed else "answered"
        else:
            run.doubtful -= 1

    def newest_call(self, call: "PlacedCall") -> "PlacedCall":
        """The last call of the same step."""
        name = (call.lease.run_id, call.opening.step)
        same = [c for c in self.calls if (c.lease.run_id, c.opening.step) == name]
        return same[-1]

    @rule(lease=LEASES, step=st.sampled_from(STEPS), is_due=st.booleans())
    def park(self, lease: Lease, step: str, is_due: bool) -> None:  # noqa: FBT001 - drawn
        """A step cannot ask Claude for now, which is no try."""
        run = self.model[lease.run_id]
        if run.holds(lease) and run.steps[step].state is not StepState.RUNNING:
            return
        parking = self.store.park_run(
            lease, step=step, wait_s=0 if is_due else 3600, reason="rate_limit"
        )
        if self.fenced(lease, parking):
            run.go(Transition.PARK)
            run.is_due = is_due
            run.steps[step].state = StepState.PENDING
            run.steps[step].attempts -= 1
            run.events.append(EventType.STEP_WAITING)

    @rule(
        lease=LEASES,
        step=st.sampled_from(STEPS),
        is_due=st.booleans(),
        is_counted=st.booleans(),
        forgotten=st.sampled_from([(), (opening().question,), None]),
    )
    def retry(
        self,
        lease: Lease,
        step: str,
        is_due: bool,  # noqa: FBT001 - drawn
        is_counted: bool,  # noqa: FBT001 - drawn
        forgotten: Forgotten,
    ) -> None:
        """A try fails, and there will be another, now or much later."""
        run = self.model[lease.run_id]
        if run.holds(lease) and run.runs_another(step):
            return
        delay_s = 0 if is_due else 3600
        retrying = self.store.retry_run(
            lease,
            step=step,
            error="e",
            delay_s=delay_s,
            is_counted=is_counted,
            forgotten=forgotten,
        )
        if self.fenced(lease, retrying):
            run.go(Transition.RETRY)
            run.is_due = is_due
            run.events.append(EventType.STEP_RETRYING)
            run.forget_call(step, only=("failed",) if forgotten == () else CALL_STATES)
            if run.steps[step].state is not StepState.SUCCEEDED:
                run.steps[step].state = StepState.PENDING
                run.steps[step].failures += is_counted

    @rule(lease=LEASES, is_due=st.booleans())
    def release(self, lease: Lease, is_due: bool) -> None:  # noqa: FBT001 - drawn
        """A worker stops, or does not know the steps."""
        releasing = self.store.release_run(lease, delay_s=0 if is_due else 3600)
        if self.fenced(lease, releasing):
            run = self.model[lease.run_id]
            run.go(Transition.RELEASE)
            run.is_due = is_due
            run.stop_steps(StepState.PENDING)

    @rule(lease=LEASES)
    def fail(self, lease: Lease) -> None:
        """A run cannot go on."""
        failure = Failure(FailureReason.PERMANENT, None, "m", 1)
        failing = self.store.fail_run(lease, failure)
        if self.fenced(lease, failing):
            run = self.model[lease.run_id]
            run.go(Transition.FAIL)
            run.reason = failure.reason
            run.events.append(EventType.RUN_FAILED)
            run.stop_steps(StepState.FAILED)

    @rule(run_id=RUN_IDS)
    def cancel(self, run_id: UUID) -> None:
        """A client has had enough."""
        run = self.model[run_id]
        if run.state in FINAL_STATES:
            with pytest.raises(RunNotCancellableError):
                self.do(self.store.cancel_run(self.key.id, run_id))
            return
        self.do(self.store.cancel_run(self.key.id, run_id))
        run.go(Transition.CANCEL)
        run.fence += 1
        run.stop_steps(StepState.FAILED)
        run.events.append(EventType.RUN_CANCELLED)

    @rule()
    def sweep(self) -> None:
        """All workers have died, and somebody notices."""
        self.lapse(is_overdue=False)

    @rule()
    def expire(self) -> None:
        """All workers have died, and nobody notices for a day."""
        self.sql(
            "UPDATE runs SET deadline_at = now() - interval '1 s' "
            "WHERE state IN ('queued', 'running')"
        )
        queued = [run for run in self.model.values() if run.state is RunState.QUEUED]
        self.lapse(is_overdue=True, overdue=len(queued))
        for run in queued:
            run.end_badly(Transition.EXPIRE, FailureReason.TIMED_OUT)

    def lapse(self, *, is_overdue: bool, overdue: int = 0) -> None:
        """Every lease has lapsed."""
        running = [run for run in self.model.values() if run.state is RunState.RUNNING]
        self.do(asyncio.sleep(2 * LEASE_TTL_S))
        assert len(running) + overdue == self.do(self.store.requeue_lapsed_runs())
        for run in running:
            run.lose_holder(
                is_charged=run.is_isolated, is_shared=not run.is_isolated, is_overdue=is_overdue
            )

    @rule(owner=OWNERS, culprit=RUN_IDS, is_known=st.booleans())
    def bury(self, owner: str, culprit: UUID, is_known: bool) -> None:  # noqa: FBT001 - drawn
        """A worker has died, and its watcher says so, perhaps also of which run."""
        dead = {
            run_id: run
            for run_id, run in self.model.items()
            if run.state is RunState.RUNNING and run.owner == owner
        }
        burying = self.store.bury_process(owner, culprit=culprit if is_known else None)
        assert len(dead) == self.do(burying)
        is_held = is_known and culprit in dead
        for run_id, run in dead.items():
            is_charged = run_id == culprit if is_held else run.is_isolated
            is_shared = not is_held and not run.is_isolated
            run.lose_holder(is_charged=is_charged, is_shared=is_shared, is_overdue=False)

    @rule(run_id=RUN_IDS, from_step=st.sampled_from([None, *STEPS]), has_input=st.booleans())
    def replay(
        self,
        run_id: UUID,
        from_step: str | None,
        has_input: bool,  # noqa: FBT001 - drawn
    ) -> None:
        """A client wants it again, from a step that may or may not do."""
        run = self.model[run_id]
        done = [run.steps[name].state is StepState.SUCCEEDED for name in STEPS]
        usable = (*done, False).index(False)
        start = usable if from_step is None else STEPS.index(from_step)
        replaying = self.store.replay_run(
            self.key.id,
            run_id,
            step_names=STEPS,
            from_step=from_step,
            input={"again": 1} if has_input else None,
        )
        if run.state not in {RunState.FAILED, RunState.CANCELLED}:
            with pytest.raises(RunNotReplayableError):
                self.do(replaying)
        elif start > usable or (has_input and start):
            with pytest.raises(ReplayStepError):
                self.do(replaying)
        else:
            self.do(replaying)
            run.begin_again(start, forgets=from_step is not None or has_input)

    @rule(held=st.lists(LEASES, max_size=4))
    def renew(self, held: list[Lease]) -> None:
        """Workers give signs of life, for what they have and what they believe to have."""
        expected = {lease.run_id for lease in held if self.model[lease.run_id].holds(lease)}

        assert expected == self.do(self.store.find_held(held))
        assert expected == self.do(self.store.renew_leases(held))

    @rule()
    def wait(self) -> None:
        """An hour goes by."""
        self.sql("UPDATE runs SET next_at = now(), hint_at = now() WHERE state = 'queued'")
        for run in self.model.values():
            run.is_due = True


@pytest.mark.timeout(300)
def test_the_record_does_what_the_model_does(module_database: PostgresSettings) -> None:
    """No order of calls makes a state, a checkpoint, a count or an event differ from the model."""

    class Machine(RecordMachine):
        settings = module_database

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
