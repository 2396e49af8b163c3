"""Keys take turns, no key runs more than it may, and nobody is kept waiting for that."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from config.postgres import PostgresSettings
from services.core.runs.models import Lease
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import SHAPES, accept, run_sql
from tests.integration.core.runs.queues import add_key, fill

LOCK = text("SELECT FROM runs WHERE id = ANY (:ids) FOR UPDATE")
LOCK_KEY = text("SELECT FROM api_keys WHERE id = :id FOR NO KEY UPDATE")
TOO_MANY = text(
    """
    SELECT count(*) FROM runs JOIN api_keys ON api_keys.id = key_id
     WHERE state = 'running' GROUP BY key_id, max_running HAVING count(*) > max_running
    """
)


@pytest.fixture
async def engine(fresh_database: PostgresSettings) -> AsyncIterator[AsyncEngine]:
    """Connections beside the store's."""
    engine = create_engine(fresh_database)
    yield engine
    await engine.dispose()


async def take(store: RunStore, limit: int, *, owner: str = "w") -> list[Lease]:
    """Claim."""
    return await store.claim_due_runs(owner=owner, limit=limit, shapes=SHAPES)


def shares(leases: Collection[Lease], *queues: list[UUID]) -> list[int]:
    """How many of the leases are of each queue."""
    return [len({lease.run_id for lease in leases} & set(queue)) for queue in queues]


async def test_a_long_queue_delays_no_other_key(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """Ten thousand runs that came earlier: the one run of another key is in the next claim."""
    greedy, modest = [await add_key(store, fresh_database) for _ in range(2)]
    many = await fill(fresh_database, greedy, 10_000, priority=100)
    first = await take(store, 10)
    one = await fill(fresh_database, modest, 1, priority=-100, due_in_s=-1)

    following = await take(store, 1)

    assert [10, 0] == shares(first, many, one)
    assert one == [lease.run_id for lease in following]


async def test_keys_share_slots_evenly(store: RunStore, fresh_database: PostgresSettings) -> None:
    """Three keys get a third each; who runs less by then is served until it has as many."""
    keys = [await add_key(store, fresh_database) for _ in range(3)]
    queues = [await fill(fresh_database, key, 100) for key in keys]

    leases = await take(store, 30)
    assert [10, 10, 10] == shares(leases, *queues)
    for lease in leases:
        if lease.run_id in queues[0]:
            await store.finish_run(lease, {})

    assert [8, 0, 0] == shares(await take(store, 8), *queues)
    assert [4, 2, 2] == shares(await take(store, 8), *queues)


async def test_what_one_key_leaves_others_get(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """Fairness leaves no slot empty: 40 keys with one run, and one with as many as are wanted."""
    keys = [await add_key(store, fresh_database) for _ in range(41)]
    deep = await fill(fresh_database, keys[0], 1000)
    for key in keys[1:]:
        await fill(fresh_database, key, 1)

    assert [60] == shares(await take(store, 100), deep)


async def test_priority_counts_within_the_key(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """The higher priority first, however many wait there for later; then who is due first."""
    key = await add_key(store, fresh_database)
    late = await fill(fresh_database, key, 3, priority=1, due_in_s=-10)
    early = await fill(fresh_database, key, 3, priority=1, due_in_s=-20)
    low = await fill(fresh_database, key, 3, priority=-1, due_in_s=-30)
    high = await fill(fresh_database, key, 2, priority=7)
    await fill(fresh_database, key, 500, priority=9, due_in_s=3600)

    leases = await take(store, 10)

    assert [*high, *early, *late, *low[:2]] == [lease.run_id for lease in leases]


async def test_hundreds_of_keys_each_get_a_turn(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """Three hundred keys, one with a long queue: three hundred slots, one of each."""
    await run_sql(
        fresh_database,
        """
        INSERT INTO api_keys (id, prefix, name, key_hash)
        SELECT gen_random_uuid(), 'p' || n, 'k', '' FROM generate_series(1, 300) AS n
        """,
        """
        INSERT INTO runs (id, key_id, pipeline, state, input, metadata, next_at)
        SELECT gen_random_uuid(), api_keys.id, 'a', 'queued', '{}', '{}',
               now() - make_interval(secs => n)
          FROM api_keys, generate_series(1, 3 + CASE prefix WHEN 'p1' THEN 5000 ELSE 0 END) AS n
        """,
    )

    for _ in range(3):
        assert 100 == len(await take(store, 100))

    engine = create_engine(fresh_database)
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT count(*) FROM runs WHERE state = 'running' GROUP BY key_id")
        )
        counts = Counter(rows.scalars())
    await engine.dispose()
    assert {1: 300} == counts


async def test_locked_runs_are_passed_over(
    store: RunStore, fresh_database: PostgresSettings, engine: AsyncEngine
) -> None:
    """What others are just taking costs nobody a slot, and nobody waits or spins for it."""
    key = await add_key(store, fresh_database)
    queue = await fill(fresh_database, key, 80)
    async with engine.connect() as other:
        await other.execute(LOCK, {"ids": queue[:40]})

        leases = await take(store, 40)
        begun_s = time.monotonic()
        nothing = await take(store, 40)
        took_s = time.monotonic() - begun_s

    assert queue[40:] == [lease.run_id for lease in leases]
    assert ([], True) == (nothing, took_s < 1)
    assert queue[:40] == [lease.run_id for lease in await take(store, 80)]


async def test_who_claims_at_once_is_not_short_changed(
    open_store: StoreFactory, fresh_database: PostgresSettings
) -> None:
    """Six workers begin at the same moment: each fills its slots, though all want the same runs."""
    stores = [open_store() for _ in range(6)]
    key = await add_key(stores[0], fresh_database)
    await fill(fresh_database, key, 300)
    await asyncio.gather(*(store.ping() for store in stores))

    claimed = await asyncio.gather(*(take(store, 50) for store in stores))

    assert 300 == len({lease.run_id for leases in claimed for lease in leases})


class Tally:
    """How many runs of each key are held."""

    def __init__(self, key_of: dict[UUID, UUID]) -> None:
        self.key_of = key_of
        self.peaks: Counter[UUID] = Counter()
        self.done: list[UUID] = []
        self._held: Counter[UUID] = Counter()

    def is_done(self) -> bool:
        """Whether all have ended."""
        return len(self.done) >= len(self.key_of)

    async def work(self, store: RunStore) -> None:
        """Claim and end runs, a few at a time."""
        while not self.is_done():
            leases = await take(store, 4)
            self._held.update(self.key_of[lease.run_id] for lease in leases)
            self.peaks |= self._held
            await asyncio.sleep(0.002)
            for lease in leases:
                self._held[self.key_of[lease.run_id]] -= 1
                await store.finish_run(lease, {})
                self.done.append(lease.run_id)

    async def watch(self, engine: AsyncEngine) -> None:
        """Look into the record all the time for a key that has too many."""
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with autocommit.connect() as connection:
            while not self.is_done():
                assert [] == list((await connection.execute(TOO_MANY)).scalars())


async def test_no_key_runs_more_than_it_may(
    open_store: StoreFactory, fresh_database: PostgresSettings, engine: AsyncEngine
) -> None:
    """Eight processes claim as fast as they can: at no moment a key has more than its limit."""
    stores = [open_store() for _ in range(8)]
    limits: dict[UUID, int] = {}
    key_of: dict[UUID, UUID] = {}
    for limit, runs in ((1, 40), (3, 120), (5, 120), (None, 50)):
        key = await add_key(stores[0], fresh_database, max_running=limit)
        limits[key.id] = limit or runs
        key_of |= dict.fromkeys(await fill(fresh_database, key, runs), key.id)
    tally = Tally(key_of)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(tally.watch(engine))
        for store in stores:
            group.create_task(tally.work(store))

    assert set(key_of) == set(tally.done)
    assert len(key_of) == len(tally.done)
    assert Counter(limits) >= tally.peaks
    assert {1, 3} <= set(tally.peaks.values())  # what they may run is made use of


async def test_a_full_key_leaves_its_slots_to_others(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """Two of ten may run; with the end of one the next may."""
    small = await add_key(store, fresh_database, max_running=2)
    free = await add_key(store, fresh_database)
    limited = await fill(fresh_database, small, 10, due_in_s=-90)
    others = await fill(fresh_database, free, 5)

    leases = await take(store, 20)
    assert [2, 5] == shares(leases, limited, others)
    assert [] == await take(store, 20)
    await store.finish_run(next(lease for lease in leases if lease.run_id in limited), {})

    assert limited[2:3] == [lease.run_id for lease in await take(store, 20)]


async def test_a_limit_of_none_or_zero(store: RunStore, fresh_database: PostgresSettings) -> None:
    """Zero stops a key; without a limit it may run what there is."""
    stopped = await add_key(store, fresh_database, max_running=0)
    await fill(fresh_database, stopped, 5)
    assert [] == await take(store, 20)

    await run_sql(fresh_database, "UPDATE api_keys SET max_running = NULL")

    assert 5 == len(await take(store, 20))


async def test_suspects_count_and_wait_like_others(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """A run that is executed alone takes its key's room, and gets none when there is none."""
    key = await add_key(store, fresh_database, max_running=1)
    suspect = await accept(store, key)
    [lease] = await take(store, 5)
    await store.bury_process("w", culprit=suspect.id)
    await accept(store, key)
    [lease] = await take(store, 5)

    assert await store.claim_isolated_run(suspect.id, owner="i", shapes=SHAPES) is None
    await store.finish_run(lease, {})
    await accept(store, key)
    alone = await store.claim_isolated_run(suspect.id, owner="i", shapes=SHAPES)

    assert alone is not None
    assert [] == await take(store, 5)


async def test_a_claimer_that_hangs_stops_only_the_keys_that_it_counts(
    store: RunStore, fresh_database: PostgresSettings, engine: AsyncEngine
) -> None:
    """Its keys' runs wait for it; new runs of them, and the runs of other keys, do not."""
    counted = await add_key(store, fresh_database, max_running=5)
    other = await add_key(store, fresh_database, max_running=5)
    await fill(fresh_database, counted, 5, due_in_s=-90)
    runs = await fill(fresh_database, other, 5)
    async with engine.connect() as hanging:
        await hanging.execute(LOCK_KEY, {"id": counted.id})

        async with asyncio.timeout(1):
            await accept(store, counted)
            leases = await take(store, 20)

    assert runs == [lease.run_id for lease in leases]
    assert 5 == len(await take(store, 20))


async def test_a_run_that_is_just_being_accepted_holds_no_claim_up(
    store: RunStore, fresh_database: PostgresSettings, engine: AsyncEngine
) -> None:
    """Accepting locks the key's row too (foreign key), in a way that counting does not mind."""
    key = await add_key(store, fresh_database, max_running=5)
    await fill(fresh_database, key, 3)
    async with engine.connect() as accepting:
        await accepting.execute(
            text(
                """
                INSERT INTO runs (id, key_id, pipeline, state, input, metadata)
                VALUES (gen_random_uuid(), :key_id, 'a', 'queued', '{}', '{}')
                """
            ),
            {"key_id": key.id},
        )

        assert 3 == len(await take(store, 20))
