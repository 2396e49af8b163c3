"""Runs whose lease lapsed come back, if need be alone, and not for ever."""

import asyncio

import pytest

from services.core.clock import utc_now
from services.core.errors import LeaseLostError
from services.core.runs.models import ApiKey, Checkpoint, DueHint, Failure, Lease, Run
from services.core.runs.states import EventType, FailureReason, RunState
from services.core.runs.store import RunStore
from services.core.runs.sweeps import SUSPECT_LAPSES
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    SHAPES,
    STEPS,
    accept,
    begin_step,
    claim,
    events_of,
    opening,
)

TTL_S = 0.05


@pytest.fixture
def store(open_store: StoreFactory) -> RunStore:
    """A store whose leases lapse at once."""
    return open_store(lease_ttl_s=TTL_S)


async def lapse(store: RunStore) -> int:
    """Wait until leases have lapsed, and sweep."""
    await asyncio.sleep(2 * TTL_S)
    return await store.requeue_lapsed_runs()


async def claim_alone(store: RunStore, run: Run) -> Lease:
    """Take a suspect run."""
    lease = await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES)
    assert lease is not None
    return lease


async def test_a_lapsed_run_goes_on_among_others(store: RunStore, api_key: ApiKey) -> None:
    """Nobody knows whose fault it was: the run is due at once, with its checkpoints."""
    run = await accept(store, api_key)
    lost = await claim(store)
    await store.record_checkpoint(lost, Checkpoint("parse", {"n": 1}))
    await store.start_step(lost, "research")

    assert await lapse(store) == 1
    assert await lapse(store) == 0

    requeued = await store.get_run(api_key.id, run.id)
    assert requeued.state is RunState.QUEUED
    assert (requeued.crashes, requeued.lapses) == (0, 1)
    assert [step.state for step in requeued.steps] == ["succeeded", "pending", "pending"]
    assert await store.take_due_hints() == [DueHint(run.id, is_isolated=False)]
    lease = await claim(store)
    assert lease.checkpoints == {"parse": {"n": 1}}
    assert lease.step_attempts["research"] == 0  # a lapse is no failed try


async def test_too_many_lapses_in_a_row_make_a_suspect(store: RunStore, api_key: ApiKey) -> None:
    """A run that lapses again and again without coming on goes on alone, and that is not yet a crash."""
    run = await accept(store, api_key)
    for _ in range(SUSPECT_LAPSES):
        assert await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES) is None
        await claim(store)
        assert await lapse(store) == 1

    suspect = await store.get_run(api_key.id, run.id)
    assert (suspect.crashes, suspect.lapses) == (0, SUSPECT_LAPSES)
    assert await store.claim_due_runs(owner="w1", limit=10, shapes=SHAPES) == []
    assert await store.take_due_hints() == [DueHint(run.id, is_isolated=True)]
    await claim_alone(store, run)
    assert await store.claim_isolated_run(run.id, owner="i2", shapes=SHAPES) is None


async def test_a_suspect_that_came_on_alone_is_cleared(store: RunStore, api_key: ApiKey) -> None:
    """Its worker says so; one that only stops gives the suspect back as a suspect."""
    run = await accept(store, api_key)
    for _ in range(SUSPECT_LAPSES):
        await claim(store)
        await lapse(store)
    await store.release_run(await claim_alone(store, run))
    alone = await claim_alone(store, run)
    assert alone.is_on_probation

    await store.release_run(alone, is_cleared=True)

    assert not (await claim(store)).is_on_probation


async def test_a_run_with_a_crash_is_not_on_probation(store: RunStore, api_key: ApiKey) -> None:
    """A death that was put down to it: it stays alone to its end."""
    run = await accept(store, api_key)
    await claim(store)
    await store.bury_process("w1", culprit=run.id)

    assert not (await claim_alone(store, run)).is_on_probation


async def test_a_checkpoint_clears_a_run_of_suspicion(store: RunStore, api_key: ApiKey) -> None:
    """However often its process dies, a run that comes on each time is never isolated."""
    run = await accept(store, api_key)
    for step in STEPS:
        lease = await claim(store)
        await begin_step(store, lease, step)
        await store.record_checkpoint(lease, Checkpoint(step, {}))
        assert (await store.get_run(api_key.id, run.id)).lapses == 0
        await lapse(store)

    assert (await store.get_run(api_key.id, run.id)).lapses == 1
    await store.finish_run(await claim(store), {})


async def test_a_zombie_writes_nothing(store: RunStore, api_key: ApiKey) -> None:
    """A worker that comes back after its lease lapsed changes nothing, whatever it tries."""
    run = await accept(store, api_key)
    zombie = await claim(store)
    await lapse(store)
    holder = await claim(store)
    before = await store.get_run(api_key.id, run.id)
    failure = Failure(FailureReason.PERMANENT, "parse", "x", 1)

    for attempt in (
        store.start_step(zombie, "parse"),
        store.record_checkpoint(zombie, Checkpoint("parse", {})),
        store.finish_run(zombie, {}),
        store.retry_run(zombie, step="parse", error="x", delay_s=0),
        store.park_run(zombie, step="parse", wait_s=0, reason="budget"),
        store.open_call(zombie, opening()),
        store.release_run(zombie),
        store.fail_run(zombie, failure),
    ):
        with pytest.raises(LeaseLostError):
            await attempt

    assert await store.find_held([zombie]) == await store.renew_leases([zombie]) == set()
    assert await store.find_held([zombie, holder]) == {run.id}
    assert await store.renew_leases([zombie, holder]) == {run.id}
    assert before == await store.get_run(api_key.id, run.id)
    await store.finish_run(holder, {})


async def test_a_zombie_cannot_renew_what_was_requeued(store: RunStore, api_key: ApiKey) -> None:
    """Once requeued, a run waits for its next holder, even if nobody has taken it yet."""
    await accept(store, api_key)
    zombie = await claim(store)
    await lapse(store)

    assert await store.renew_leases([zombie]) == set()


async def test_a_renewed_lease_does_not_lapse(open_store: StoreFactory, api_key: ApiKey) -> None:
    """Who gives signs of life keeps the run for as long as it takes."""
    store = open_store(lease_ttl_s=0.5)
    await accept(store, api_key)
    lease = await claim(store)
    for _ in range(4):
        await asyncio.sleep(0.2)
        assert await store.renew_leases([lease]) == {lease.run_id}
        assert await store.requeue_lapsed_runs() == 0

    await store.finish_run(lease, {})


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ("cpu", "The process that executed the run died while it was on the CPU."),
        ("alone", "The process that executed the run died, and it executed nothing else."),
    ],
)
async def test_the_last_crash_fails_the_run(
    store: RunStore, api_key: ApiKey, evidence: str, message: str
) -> None:
    """A poison run ends as crashed after three deaths; the message says how that is known."""
    poison = await accept(store, api_key)
    await claim(store)
    assert await store.bury_process("w1", culprit=poison.id) == 1
    waits = [await seconds_to_wait(store, api_key, poison)]
    for _ in range(2):
        await wait_for_claim(store, poison)
        if evidence == "cpu":
            assert await store.bury_process("i1", culprit=poison.id) == 1
        else:
            assert await lapse(store) == 1
        waits.append(await seconds_to_wait(store, api_key, poison))

    failed = await store.get_run(api_key.id, poison.id)
    assert failed.failure == Failure(FailureReason.CRASHED, "parse", message, 3)
    assert (failed.state, failed.crashes, failed.lapses) == (RunState.FAILED, 3, 0)
    assert [0, 4, 0] == [round(wait) for wait in waits]
    assert failed.steps[0].state == "failed"
    told = (await events_of(store, failed))[-1]
    assert (told.type, told.data["attempts"]) == (EventType.RUN_FAILED, 3)


async def seconds_to_wait(store: RunStore, api_key: ApiKey, run: Run) -> float:
    """How long the run has to wait yet."""
    next_at = (await store.get_run(api_key.id, run.id)).next_at
    return 0 if next_at is None else max(0, (next_at - utc_now()).total_seconds())


async def wait_for_claim(store: RunStore, run: Run) -> Lease:
    """Take a suspect run as soon as it is due."""
    lease = None
    while lease is None:
        await asyncio.sleep(0.1)
        lease = await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES)
    return lease


async def test_nothing_lapses_right_after_a_restart(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Within one lease of PostgreSQL's start its holders get the time to renew."""
    store = open_store(lease_ttl_s=TTL_S)
    await accept(store, api_key)
    await claim(store)
    # A lease longer than this server has been up: for it, PostgreSQL has just started.
    young = open_store(lease_ttl_s=10**6)
    await asyncio.sleep(2 * TTL_S)

    assert await young.requeue_lapsed_runs() == 0
    assert await store.requeue_lapsed_runs() == 1


async def test_a_hint_is_given_once_until_it_is_stale(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """The API's own hint counts; a sweep hints what nobody took, and no two hint the same."""
    store = open_store(rehint_after_s=0.5)
    run = await accept(store, api_key)
    assert await store.take_due_hints() == []
    await asyncio.sleep(0.6)

    both = await asyncio.gather(store.take_due_hints(), store.take_due_hints())

    assert sorted(both, key=len) == [[], [DueHint(run.id, is_isolated=False)]]
    assert await store.take_due_hints() == []
    await asyncio.sleep(0.6)
    assert len(await store.take_due_hints()) == 1


async def test_a_released_run_is_hinted_at_once(store: RunStore, api_key: ApiKey) -> None:
    """What a stopping worker gives back waits for no timer but the sweep's."""
    run = await accept(store, api_key)
    await store.release_run(await claim(store))

    assert await store.take_due_hints() == [DueHint(run.id, is_isolated=False)]


async def test_a_sweep_takes_no_more_than_its_limit(store: RunStore, api_key: ApiKey) -> None:
    """A sweep after a great crash is many short transactions, not one long one."""
    for _ in range(5):
        await accept(store, api_key)
    await store.claim_due_runs(owner="w1", limit=5, shapes=SHAPES)
    await asyncio.sleep(2 * TTL_S)

    swept = [await store.requeue_lapsed_runs(limit=2) for _ in range(4)]

    assert swept == [2, 2, 1, 0]
