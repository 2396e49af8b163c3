"""No attempt lasts for ever, whoever holds it or does not."""

import asyncio

import pytest

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey, Checkpoint, Failure, Run
from services.core.runs.states import EventType, FailureReason, RunState
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    SHAPES,
    accept,
    claim,
    events_of,
    run_sql,
)

LATE = "The run did not end before its deadline."


@pytest.fixture
def store(open_store: StoreFactory) -> RunStore:
    """A store whose runs have a quarter of a second, and whose leases lapse at once."""
    return open_store(run_timeout_s=0.25, lease_ttl_s=0.05)


async def test_the_deadline_counts_from_the_first_claim(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Waiting to be claimed costs nothing; retries, releases and lapses do not begin it again."""
    store = open_store(run_timeout_s=60)
    await accept(store, api_key)
    await asyncio.sleep(0.1)
    first = await claim(store)
    await asyncio.sleep(0.2)
    await store.release_run(first)
    second = await claim(store)

    assert 59.9 < first.remaining_s <= 60
    assert 55 < second.remaining_s < first.remaining_s - 0.15


async def test_a_run_that_waits_beyond_its_deadline_fails(store: RunStore, api_key: ApiKey) -> None:
    """A queued run fails as timed out, with the step that it did not get to; nobody claims it."""
    run = await accept(store, api_key)
    lease = await claim(store)
    await store.record_checkpoint(lease, Checkpoint("parse", {}))
    await store.start_step(lease, "research")
    await store.retry_run(lease, step="research", error="503", delay_s=0)
    await asyncio.sleep(0.3)

    assert await store.claim_due_runs(owner="w1", limit=10, shapes=SHAPES) == []
    assert await store.requeue_lapsed_runs() == 1
    assert await store.requeue_lapsed_runs() == 0

    failed = await store.get_run(api_key.id, run.id)
    assert (failed.state, failed.crashes, failed.lapses) == (RunState.FAILED, 0, 0)
    assert failed.failure == Failure(FailureReason.TIMED_OUT, "research", LATE, 1)
    assert failed.finished_at is not None
    told = (await events_of(store, run))[-1]
    assert (told.type, told.data["reason"]) == (EventType.RUN_FAILED, "timed_out")


async def test_a_lapsed_run_beyond_its_deadline_fails(store: RunStore, api_key: ApiKey) -> None:
    """It gets no other try; the step that it was in fails with it."""
    run = await accept(store, api_key)
    await claim(store)
    await asyncio.sleep(0.3)

    assert await store.requeue_lapsed_runs() == 1

    failed = await store.get_run(api_key.id, run.id)
    assert failed.failure == Failure(FailureReason.TIMED_OUT, "parse", LATE, 1)
    assert [step.state for step in failed.steps] == ["failed", "pending", "pending"]


async def test_a_holder_beyond_the_deadline_is_left_to_itself(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Its worker ends it; the sweep does not interfere while somebody gives signs of life."""
    store = open_store(run_timeout_s=0.1)
    await accept(store, api_key)
    lease = await claim(store)
    await asyncio.sleep(0.2)

    assert await store.requeue_lapsed_runs() == 0
    assert await store.find_held([lease]) == {lease.run_id}
    await store.finish_run(lease, {})


async def test_a_run_that_was_never_claimed_has_no_deadline(
    store: RunStore, api_key: ApiKey
) -> None:
    """However long the queue is, a run fails for what it did, not for what it waited for."""
    run = await accept(store, api_key)
    await asyncio.sleep(0.3)

    assert await store.requeue_lapsed_runs() == 0
    assert (await claim(store)).run_id == run.id


async def test_the_last_crash_beyond_the_deadline_is_a_crash(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """What killed its process says more than what was late."""
    store = open_store(max_crashes=1)
    run: Run = await accept(store, api_key)
    await claim(store)
    await run_sql(fresh_database, "UPDATE runs SET deadline_at = now() - interval '1 s'")

    await store.bury_process("w1", culprit=run.id)

    failure = (await store.get_run(api_key.id, run.id)).failure
    assert failure is not None
    assert failure.reason is FailureReason.CRASHED
