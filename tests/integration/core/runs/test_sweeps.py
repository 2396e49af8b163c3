"""Runs whose holder died come back, alone, and not for ever."""

import asyncio

import pytest

from services.core.errors import LeaseLostError
from services.core.runs.models import ApiKey, Checkpoint, DueHint, Failure
from services.core.runs.states import EventType, FailureReason, RunState
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import COST, USAGE, accept, claim, events_of

TTL_S = 0.05


@pytest.fixture
def store(open_store: StoreFactory) -> RunStore:
    """A store whose leases lapse at once."""
    return open_store(lease_ttl_s=TTL_S)


async def lapse(store: RunStore) -> int:
    """Wait until leases have lapsed, and sweep."""
    await asyncio.sleep(2 * TTL_S)
    return await store.requeue_lapsed_runs()


async def test_a_lapsed_run_goes_on_alone(store: RunStore, api_key: ApiKey) -> None:
    """A run whose process died is due at once, in isolation, with its checkpoints."""
    run = await accept(store, api_key)
    lost = await claim(store)
    await store.start_step(lost, "parse")
    await store.record_checkpoint(lost, Checkpoint("parse", {"n": 1}, USAGE, COST))
    await store.start_step(lost, "research")

    assert await lapse(store) == 1
    assert await lapse(store) == 0

    requeued = await store.get_run(api_key.id, run.id)
    assert (requeued.state, requeued.crashes) == (RunState.QUEUED, 1)
    assert [step.state for step in requeued.steps] == ["succeeded", "pending", "pending"]
    assert await store.claim_due_runs(owner="w1", limit=10) == []
    assert await store.take_due_hints() == [DueHint(run.id, is_isolated=True)]
    lease = await store.claim_isolated_run(run.id, owner="i1")
    assert lease is not None
    assert lease.checkpoints == {"parse": {"n": 1}}
    assert lease.step_attempts["research"] == 0  # a crash is no failed try
    assert await store.claim_isolated_run(run.id, owner="i2") is None


async def test_a_zombie_writes_nothing(store: RunStore, api_key: ApiKey) -> None:
    """A worker that comes back after its lease lapsed changes nothing, whatever it tries."""
    run = await accept(store, api_key)
    zombie = await claim(store)
    await store.start_step(zombie, "parse")
    await lapse(store)
    holder = await store.claim_isolated_run(run.id, owner="i1")
    assert holder is not None
    before = await store.get_run(api_key.id, run.id)
    failure = Failure(FailureReason.PERMANENT, "parse", "x", 1)

    for attempt in (
        store.start_step(zombie, "parse"),
        store.record_text(zombie, "parse", "x"),
        store.record_checkpoint(zombie, Checkpoint("parse", {}, USAGE, COST)),
        store.finish_run(zombie, {}),
        store.retry_run(zombie, step="parse", error="x", delay_s=0, usage=USAGE, cost_usd=COST),
        store.release_run(zombie),
        store.fail_run(zombie, failure, usage=USAGE, cost_usd=COST),
    ):
        with pytest.raises(LeaseLostError):
            await attempt

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


async def test_the_last_crash_fails_the_run(store: RunStore, api_key: ApiKey) -> None:
    """A poison run ends as crashed after three deaths; its neighbour is untouched."""
    poison = await accept(store, api_key)
    await claim(store)
    assert await lapse(store) == 1
    assert await store.claim_isolated_run(poison.id, owner="i1")
    assert await lapse(store) == 1
    assert await store.claim_isolated_run(poison.id, owner="i1") is None  # waits after the second
    waiting = await store.get_run(api_key.id, poison.id)
    assert waiting.next_at is not None
    neighbour = await accept(store, api_key)
    third = None
    while third is None:
        await asyncio.sleep(0.2)
        third = await store.claim_isolated_run(poison.id, owner="i1")
    await store.start_step(third, "parse")
    assert await lapse(store) == 1

    failed = await store.get_run(api_key.id, poison.id)
    assert failed.failure is not None
    assert (failed.state, failed.crashes) == (RunState.FAILED, 3)
    assert (failed.failure.reason, failed.failure.step) == (FailureReason.CRASHED, "parse")
    assert failed.failure.attempts == 3
    assert failed.steps[0].state == "failed"
    assert (await events_of(store, failed))[-1].type is EventType.RUN_FAILED
    assert (await store.get_run(api_key.id, neighbour.id)).crashes == 0


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
    await store.claim_due_runs(owner="w1", limit=5)
    await asyncio.sleep(2 * TTL_S)

    swept = [await store.requeue_lapsed_runs(limit=2) for _ in range(4)]

    assert swept == [2, 2, 1, 0]
