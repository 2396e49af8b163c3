"""A claim starts the run's first step without a checkpoint, if it is sure to be right."""

import asyncio

from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey, Checkpoint, Lease
from services.core.runs.states import EventType, StepState
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.core.runs.pieces import SHAPES, STEPS, accept, claim, events_of, run_sql

CHECKPOINT_BEHIND_ITS_BACK = text(
    """
    UPDATE steps SET state = 'succeeded', output = '{"n": 1}', finished_at = now()
     WHERE name = 'parse'
    """
)
CLAIM_IS_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


async def test_the_first_step_starts_with_the_claim(store: RunStore, api_key: ApiKey) -> None:
    """Step, event and lease say so, each run for itself; the others wait."""
    runs = [await accept(store, api_key) for _ in range(3)]

    leases = await store.claim_due_runs(owner="w1", limit=3, shapes=SHAPES)

    assert [lease.started_attempt for lease in leases] == [1, 1, 1]
    for run in runs:
        parse, *others = (await store.get_run(api_key.id, run.id)).steps
        assert (parse.state, parse.attempts) == (StepState.RUNNING, 1)
        assert parse.started_at is not None
        assert {(step.state, step.attempts) for step in others} == {(StepState.PENDING, 0)}
        told = await events_of(store, run)
        assert [event.type for event in told[1:]] == [
            EventType.RUN_STARTED,
            EventType.STEP_STARTED,
        ]
        assert told[-1].data == {"step": "parse", "attempt": 1}


async def test_a_suspect_starts_in_the_same_way(store: RunStore, api_key: ApiKey) -> None:
    """Also the run that goes on alone; its second try counts on."""
    run = await accept(store, api_key)
    await claim(store)
    await store.bury_process("w1", culprit=run.id)

    lease = await store.claim_isolated_run(run.id, owner="i1", shapes=SHAPES)

    assert lease is not None
    assert lease.started_attempt == 2
    told = (await events_of(store, run))[-1]
    assert (told.type, told.data) == (EventType.STEP_STARTED, {"step": "parse", "attempt": 2})


async def test_the_first_step_without_a_checkpoint_starts(store: RunStore, api_key: ApiKey) -> None:
    """Whoever takes a run over starts where it stopped; if all is done, nothing."""
    run = await accept(store, api_key)
    started = []
    for step in STEPS:
        lease = await claim(store)
        started.append(lease.started_attempt)
        await store.record_checkpoint(lease, Checkpoint(step, {}))
        await store.release_run(lease)

    last = await claim(store)

    assert started == [1, 1, 1]
    assert last.started_attempt is None
    await store.finish_run(last, {})
    types = [event.type for event in await events_of(store, run)]
    assert types.count(EventType.STEP_STARTED) == len(STEPS)


async def test_a_run_of_unknown_shape_is_not_started(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """Who takes it may not know its steps, and gives it back: that was no try."""
    run = await accept(store, api_key)
    await run_sql(fresh_database, "UPDATE runs SET shape = NULL")

    lease = await claim(store)

    assert lease.started_attempt is None
    assert (await store.get_run(api_key.id, run.id)).steps[0].attempts == 0
    assert await store.start_step(lease, "parse") == 1


async def test_a_step_that_is_done_meanwhile_is_not_started(
    store: RunStore, api_key: ApiKey, fresh_database: PostgresSettings
) -> None:
    """A checkpoint that is committed while the claim is under way stays, and events have no gap."""
    run = await accept(store, api_key)
    await store.release_run(await claim(store))
    engine = create_engine(fresh_database)
    looking = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with engine.connect() as earlier, looking.connect() as watcher:
        await earlier.execute(CHECKPOINT_BEHIND_ITS_BACK)
        claiming = asyncio.create_task(claim(store))
        while not (await watcher.execute(CLAIM_IS_WAITING)).scalar_one():
            await asyncio.sleep(0.01)
        await earlier.commit()
        lease: Lease = await claiming
    await engine.dispose()

    assert lease.checkpoints == {"parse": {"n": 1}}
    assert lease.started_attempt is None
    types = [event.type for event in await events_of(store, run)]
    assert types == [EventType.RUN_QUEUED, EventType.RUN_STARTED, EventType.STEP_STARTED]
    assert await store.start_step(lease, "research") == 1
