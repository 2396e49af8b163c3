"""Keeping leases while runs are executed, and letting go of them."""

import asyncio

import pytest

from services.core.runs.models import Lease
from services.core.runs.states import RunState
from services.worker.leases import LeaseKeeper
from tests.fakes.memory_store import MemoryRunStore
from tests.fakes.quiet_reporter import QuietReporter
from tests.fakes.tiny_pipeline import ScriptedClaude
from tests.fakes.waiting import until

INTERRUPTED = ["task-started", "task-retried"]


async def _claim_one(store: MemoryRunStore) -> Lease:
    (lease,) = await store.claim_due_runs(owner="me", limit=1)
    return lease


async def test_a_run_ends_and_frees_its_slot(
    store: MemoryRunStore, keeper: LeaseKeeper, reporter: QuietReporter
) -> None:
    """Its ending is in the record and in Flower, and whoever waits for a slot is told."""
    run = store.add_run()
    freed = asyncio.Event()

    keeper.execute(await _claim_one(store), on_done=freed.set)
    held_meanwhile = len(keeper)
    await freed.wait()

    assert (1, 0) == (held_meanwhile, len(keeper))
    assert RunState.SUCCEEDED is run.state
    assert ["task-started", "task-succeeded"] == reporter.names()


async def test_a_stolen_run_is_cut_off(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude, reporter: QuietReporter
) -> None:
    """The next heartbeat notices a lost lease and cancels the call, not only its result."""
    run = store.add_run()
    claude.before_answer = asyncio.Event().wait
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 1)

    store.steal(run)
    await keeper.beat()
    await until(lambda: len(keeper) == 0)

    assert 0 == run.releases
    assert INTERRUPTED == reporter.names()


async def test_a_run_that_comes_back_is_executed_once(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """Cancelled and replayed within a heartbeat, it is claimed again: the first execution ends."""
    run = store.add_run()
    claude.before_answer = asyncio.Event().wait
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 1)

    store.steal(run)
    run.state = RunState.QUEUED
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 2)
    await until(lambda: len(keeper) == 1, within_s=2)
    await keeper.beat()

    assert len(keeper) == 1


async def test_a_cancelled_run_is_cut_off(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """A client's cancellation ends a running call with the next heartbeat; nothing is written."""
    run = store.add_run()
    claude.before_answer = asyncio.Event().wait
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 1)

    run.state = RunState.CANCELLED
    await keeper.beat()
    await until(lambda: len(keeper) == 0)

    assert RunState.CANCELLED is run.state
    assert {} == run.lease.checkpoints


async def test_a_look_notices_a_cancellation_between_heartbeats(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """Looking writes nothing, so it is done more often than renewing."""
    cancelled, kept = store.add_run(), store.add_run()
    claude.before_answer = asyncio.Event().wait
    for _ in range(2):
        keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 2)

    cancelled.state = RunState.CANCELLED
    await keeper.look()
    await until(lambda: len(keeper) == 1)

    assert ([], RunState.RUNNING) == (store.heartbeats, kept.state)
    await keeper.drain(0)


async def test_a_lost_run_that_resists_frees_its_slot(
    store: MemoryRunStore,
    keeper: LeaseKeeper,
    claude: ScriptedClaude,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A step that swallows every cancellation is abandoned after a while, and steps no more."""
    monkeypatch.setattr("services.worker.bounds.CLEANUP_S", 0.05)
    run = store.add_run()
    swallowed = 0

    async def resist() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                swallowed += 1

    claude.before_answer = resist
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 1)

    store.steal(run)
    for _ in range(3):
        await keeper.look()
    await until(lambda: len(keeper) == 0)

    assert 1 == swallowed
    assert f"step ask of run {run.lease.run_id} ignored its cancellation" in caplog.text


async def test_one_lost_lease_leaves_the_others_alone(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """Only the run that was lost is cut off."""
    stolen, kept = store.add_run(), store.add_run()
    answer = asyncio.Event()
    claude.before_answer = answer.wait
    for _ in range(2):
        keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 2)

    store.steal(stolen)
    await keeper.beat()
    await until(lambda: len(keeper) == 1)
    answer.set()
    await until(lambda: len(keeper) == 0)

    assert [RunState.RUNNING, RunState.SUCCEEDED] == [stolen.state, kept.state]


async def test_an_outage_of_the_record_costs_no_paid_call(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """Heartbeats that fail for longer than a lease cancel nothing: nobody can take the runs either."""
    run = store.add_run()
    answer = asyncio.Event()
    claude.before_answer = answer.wait
    beats = asyncio.create_task(keeper.keep_forever())
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 1)

    store.is_away = True
    await asyncio.sleep(0.15)  # five leases
    answer.set()
    store.is_away = False
    await until(lambda: len(keeper) == 0)
    beats.cancel()

    assert (RunState.SUCCEEDED, 1) == (run.state, len(claude.asked))


async def test_heartbeats_tell_that_the_worker_lives(
    store: MemoryRunStore, keeper: LeaseKeeper
) -> None:
    """Also without a run, a worker shows each third of a lease that it is there."""
    beats = asyncio.create_task(keeper.keep_forever())
    await until(lambda: len(store.heartbeats) >= 2)
    beats.cancel()

    assert {("worker@test", "worker")} == set(store.heartbeats)
    assert {"worker@test": ("tiny:ask,sign",)} == store.shapes


async def test_heartbeats_go_on_after_an_outage(store: MemoryRunStore, keeper: LeaseKeeper) -> None:
    """The first heartbeat after an outage comes by itself."""
    store.is_away = True
    beats = asyncio.create_task(keeper.keep_forever())
    await asyncio.sleep(0.03)

    store.is_away = False
    await until(lambda: len(store.heartbeats) >= 1)

    assert not beats.done()
    beats.cancel()


async def test_draining_waits_for_what_ends_in_time(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """A call that fits into the grace period is finished, not repeated elsewhere."""
    run = store.add_run()
    claude.before_answer = lambda: asyncio.sleep(0.1)
    keeper.execute(await _claim_one(store))

    released = await keeper.drain(5)

    assert (RunState.SUCCEEDED, 0, []) == (run.state, run.releases, released)
    assert 0 == keeper.left_behind


async def test_draining_gives_the_rest_back_at_once(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude, reporter: QuietReporter
) -> None:
    """Whatever does not end in time is queued again, for any worker, and not counted as a crash."""
    runs = [store.add_run() for _ in range(3)]
    claude.before_answer = asyncio.Event().wait
    for _ in runs:
        keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 3)

    released = await keeper.drain(0.01)

    assert {run.lease.run_id for run in runs} == set(released)
    assert 0 == keeper.left_behind
    assert [(RunState.QUEUED, 1)] * 3 == [(run.state, run.releases) for run in runs]
    assert 0 == len(keeper)
    assert 3 == reporter.names().count("task-retried")


async def test_draining_survives_an_absent_record(
    store: MemoryRunStore, keeper: LeaseKeeper, claude: ScriptedClaude
) -> None:
    """With PostgreSQL away nothing can be given back: the worker still stops, the sweep finds the run."""
    store.add_run()
    claude.before_answer = asyncio.Event().wait
    keeper.execute(await _claim_one(store))
    await until(lambda: len(claude.asked) == 1)

    store.is_away = True
    released = await keeper.drain(0.01)

    assert (0, [], 1) == (len(keeper), released, keeper.left_behind)
