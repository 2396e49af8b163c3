"""Several processes at once: one winner, no gaps, nothing twice."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from config.postgres import PostgresSettings
from services.core.errors import LeaseLostError, RunNotCancellableError
from services.core.runs.encoding import encode_json
from services.core.runs.models import ApiKey, Checkpoint, Lease, Run
from services.core.runs.statements import START_STEPS
from services.core.runs.states import FINAL_EVENTS, EventType, RunState, StepState
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import (
    COST,
    SHAPES,
    STEPS,
    accept,
    begin_step,
    claim,
    events_of,
    new_run,
    pay,
)


async def test_no_run_is_claimed_twice(open_store: StoreFactory, api_key: ApiKey) -> None:
    """Four workers that claim at the same time share the runs between them."""
    stores = [open_store() for _ in range(4)]
    accepted = await asyncio.gather(*(accept(stores[0], api_key) for _ in range(200)))

    async def claim_all(number: int) -> list[Lease]:
        taken = []
        while leases := await stores[number].claim_due_runs(
            owner=f"w{number}", limit=7, shapes=SHAPES
        ):
            taken += leases
        return taken

    claimed = [
        lease for taken in await asyncio.gather(*map(claim_all, range(4))) for lease in taken
    ]

    assert Counter(run.id for run in accepted) == Counter(lease.run_id for lease in claimed)


async def test_one_isolated_run_has_one_winner(open_store: StoreFactory, api_key: ApiKey) -> None:
    """A doubled hint for a suspect run starts it once."""
    stores = [open_store() for _ in range(4)]
    run = await accept(stores[0], api_key)
    await claim(stores[0])
    assert await stores[0].bury_process("w1", culprit=run.id) == 1

    leases = await asyncio.gather(
        *(store.claim_isolated_run(run.id, owner="i", shapes=SHAPES) for store in stores)
    )

    assert len([lease for lease in leases if lease]) == 1


async def test_fifty_posts_with_one_key_make_one_run(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """A client that repeats itself in a panic gets the same run fifty times."""
    stores = [open_store() for _ in range(3)]
    request = new_run(api_key, idempotency_key="k", request_hash=b"1" * 32)

    answers = await asyncio.gather(
        *(stores[number % 3].accept_run(request) for number in range(50))
    )

    assert len({run.id for run, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1
    assert len((await stores[0].list_runs(api_key.id)).items) == 1


async def test_batches_with_the_same_keys_never_wait_in_a_circle(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Two API processes that get the same hundred requests in opposite order accept them all."""
    stores = [open_store() for _ in range(2)]
    requests = [
        new_run(api_key, idempotency_key=f"k{i:03}", request_hash=b"1" * 32) for i in range(100)
    ]

    answers = await asyncio.gather(
        *(stores[0].accept_run(request) for request in requests),
        *(stores[1].accept_run(request) for request in reversed(requests)),
    )

    assert [is_new for _, is_new in answers].count(True) == 100
    assert len({run.id for run, _ in answers}) == 100


async def test_locks_are_taken_in_the_order_of_ids(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """A batch that waits for one run holds none with a higher id: so nobody waits in a circle."""
    store = open_store()
    first, second = [(await accept(store, api_key)).id for _ in range(2)]
    leases = {
        lease.run_id: lease
        for lease in await store.claim_due_runs(owner="w", limit=2, shapes=SHAPES)
    }
    backwards = [leases[second], leases[first]]
    lock = text("SELECT FROM runs WHERE id = :id FOR UPDATE NOWAIT")
    engine = create_engine(fresh_database)

    async def write_both() -> None:
        await asyncio.gather(*(store.start_step(lease, "parse") for lease in backwards))

    for change in (store.renew_leases(backwards), write_both()):
        async with engine.connect() as holder, engine.connect() as other:
            await holder.execute(lock, {"id": first})
            waiting = asyncio.ensure_future(change)
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await other.execute(lock, {"id": second})
        await waiting
    await engine.dispose()


async def test_idempotency_keys_are_taken_in_order(
    open_store: StoreFactory, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """A batch that waits for one idempotency key holds none that comes after it."""
    store, other = open_store(), open_store()
    engine = create_engine(fresh_database)
    insert = text(
        """
        INSERT INTO runs (id, key_id, idempotency_key, pipeline, state, input, metadata)
        VALUES (:id, :key_id, 'a', 'p', 'queued', '{}', '{}')
        """
    )
    hashed = {"request_hash": b"1" * 32}

    async with engine.connect() as holder:
        await holder.execute(insert, {"id": uuid7(), "key_id": api_key.id})
        waiting = asyncio.gather(
            *(accept(store, api_key, idempotency_key=key, **hashed) for key in ("b", "a"))
        )
        await asyncio.sleep(0.3)
        assert not waiting.done()
        run = await accept(other, api_key, idempotency_key="b", **hashed)
    found, _ = await waiting
    await engine.dispose()

    assert found.id == run.id


async def attempts_of(store: RunStore, run: Run) -> list[int]:
    """The tries that a run's events tell of, in order; fails if the events' numbers have a gap."""
    events = await events_of(store, run)
    started = [event for event in events if event.type is EventType.STEP_STARTED]
    return [event.data["attempt"] for event in started]


async def test_events_have_no_gaps_under_concurrency(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Events of many runs, written at once by the batch, count 1, 2, 3, ... in each run."""
    store = open_store()
    runs = [await accept(store, api_key) for _ in range(20)]
    leases = await store.claim_due_runs(owner="w1", limit=20, shapes=SHAPES)

    async def begin(lease: Lease) -> None:
        for _ in range(19):
            await store.start_step(lease, "parse")

    await asyncio.gather(*map(begin, leases), *(store.renew_leases(leases) for _ in range(20)))

    for run in runs:
        assert list(range(1, 21)) == await attempts_of(store, run)


async def test_events_of_one_run_at_once_have_no_gaps(store: RunStore, api_key: ApiKey) -> None:
    """Even callers that do not wait for each other never share or skip a number."""
    run = await accept(store, api_key)
    lease = await claim(store)

    await asyncio.gather(*(store.start_step(lease, "parse") for _ in range(29)))

    assert list(range(1, 31)) == await attempts_of(store, run)


async def test_whole_lives_at_once_while_leases_are_renewed(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Two workers, a hundred runs, heartbeats and sweeps in between: no deadlock, all end."""
    stores = [open_store() for _ in range(2)]
    await asyncio.gather(*(accept(stores[0], api_key) for _ in range(100)))
    held: list[Lease] = []

    async def execute(store: RunStore, lease: Lease) -> None:
        for step in STEPS:
            await begin_step(store, lease, step)
            await pay(store, lease, step)
            await store.record_checkpoint(lease, Checkpoint(step, {}))
        await store.finish_run(lease, {})

    async def work(store: RunStore) -> None:
        while leases := await store.claim_due_runs(owner="w", limit=25, shapes=SHAPES):
            held.extend(leases)
            await asyncio.gather(*(execute(store, lease) for lease in leases))

    async def disturb() -> None:
        while True:
            await stores[0].renew_leases(held[::-1])
            await stores[1].renew_leases(held)
            await stores[1].requeue_lapsed_runs()
            await stores[0].take_due_hints()

    disturbing = asyncio.create_task(disturb())
    await asyncio.gather(*map(work, stores))
    disturbing.cancel()
    await asyncio.gather(disturbing, return_exceptions=True)

    totals = await stores[0].get_totals()
    assert totals.runs_by_state[RunState.SUCCEEDED] == 100
    assert {(step.succeeded, step.cost_usd) for step in totals.steps} == {(100, 100 * COST)}


async def test_a_run_ends_once_when_all_want_to_end_it(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """Finish, retry, release and cancel at once: one takes effect, the others learn it."""
    store, other = open_store(), open_store()
    for _ in range(20):
        run = await accept(store, api_key)
        lease = await claim(store)

        results = await asyncio.gather(
            store.finish_run(lease, {}),
            store.retry_run(lease, step="parse", error="x", delay_s=60),
            store.release_run(lease),
            other.cancel_run(api_key.id, run.id),
            return_exceptions=True,
        )

        ended = await store.get_run(api_key.id, run.id)
        lost = [error for error in results if isinstance(error, LeaseLostError)]
        finals = [e for e in await events_of(store, run) if e.type in FINAL_EVENTS]
        assert len(lost) >= 2
        assert len(finals) <= 1
        if isinstance(results[3], RunNotCancellableError):
            assert ended.state is RunState.SUCCEEDED
        else:
            assert ended.state is RunState.CANCELLED


async def test_a_cancelled_claim_leaves_no_orphan(
    open_store: StoreFactory, api_key: ApiKey
) -> None:
    """A worker that is stopped while it claims gives back what it got: no crash is counted."""
    store = open_store()
    runs = [await accept(store, api_key) for _ in range(10)]
    for delay_s in (0, 0.0005, 0.001, 0.002, 0.004):
        claiming = asyncio.create_task(store.claim_due_runs(owner="w1", limit=10, shapes=SHAPES))
        await asyncio.sleep(delay_s)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        if not claiming.cancelled():
            await asyncio.gather(*map(store.release_run, claiming.result()))

    states = {(await store.get_run(api_key.id, run.id)).state for run in runs}
    assert states == {RunState.QUEUED}


async def cancel(store: RunStore, api_key: ApiKey, lease: Lease) -> None:
    """A client ends the run."""
    await store.cancel_run(api_key.id, lease.run_id)


async def bury(store: RunStore, api_key: ApiKey, lease: Lease) -> None:
    """The holder has died."""
    assert await store.bury_process("w1", culprit=lease.run_id) == 1, api_key


async def release(store: RunStore, api_key: ApiKey, lease: Lease) -> None:
    """The holder stops."""
    assert api_key
    await store.release_run(lease)


@pytest.mark.parametrize("stop", [cancel, bury, release])
async def test_a_step_that_is_just_being_started_is_stopped_too(
    open_store: StoreFactory,
    api_key: ApiKey,
    fresh_database: PostgresSettings,
    stop: Callable[[RunStore, ApiKey, Lease], Awaitable[None]],
) -> None:
    """Who has to wait for a start that is not committed yet stops that step, and no other."""
    store = open_store()
    run = await accept(store, api_key)
    lease = await claim(store)
    await store.record_checkpoint(lease, Checkpoint("parse", {}))
    items = encode_json([{"run_id": run.id, "fence": lease.fence, "step": "research"}])
    engine = create_engine(fresh_database)

    async with engine.begin() as connection:
        await connection.execute(text(START_STEPS.text), {"items": items})
        stopping = asyncio.ensure_future(stop(store, api_key, lease))
        await asyncio.sleep(0.3)
        assert not stopping.done()
    await stopping
    await engine.dispose()

    stopped = await store.get_run(api_key.id, run.id)
    parse, research, compose = stopped.steps
    assert parse.state is StepState.SUCCEEDED
    assert research.attempts == 1
    assert research.state is (StepState.FAILED if stop is cancel else StepState.PENDING)
    assert (research.error is None) == (stop is release)
    assert (compose.state, compose.error, compose.finished_at) == (StepState.PENDING, None, None)
    await events_of(store, run)
