"""More keys than a claim looks at: it fills all the same, and nobody is passed over for long."""

import asyncio
from collections import Counter

import pytest

from config.postgres import PostgresSettings
from services.core.runs.claims import KEYS_LOOKED_AT
from services.core.runs.models import Lease
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import SHAPES, run_sql
from tests.integration.core.runs.queues import add_key, fill

CROWD = 2 * KEYS_LOOKED_AT + 50
CLAIMS_OF_A_ROUND = 3
ADD_CROWD = f"""
    INSERT INTO api_keys (id, prefix, name, key_hash)
    SELECT gen_random_uuid(), 'crowd' || n, 'k', '' FROM generate_series(1, {CROWD}) AS n
"""  # noqa: S608 - a constant
# As many for each key; those of the first are the oldest.
ADD_RUNS = """
    INSERT INTO runs (id, key_id, pipeline, state, input, metadata, next_at, shape, lease_until)
    SELECT gen_random_uuid(), id, 'a', '{state}', '{{}}', '{{}}',
           now() + interval '{due_in}' - make_interval(secs => n), {shape}, now() + interval '1 h'
      FROM api_keys, generate_series(1, {runs}) AS n WHERE name = 'k' AND prefix LIKE 'crowd%'
"""


def add_runs(
    runs: int, *, state: str = "queued", due_in: str = "-1 min", shape: str = "NULL"
) -> str:
    """SQL that gives each key of the crowd so many runs."""
    return ADD_RUNS.format(runs=runs, state=state, due_in=due_in, shape=shape)


async def take(store: RunStore, limit: int) -> list[Lease]:
    """Claim."""
    return await store.claim_due_runs(owner="w", limit=limit, shapes=SHAPES)


@pytest.mark.parametrize("limit", [1, KEYS_LOOKED_AT])
async def test_a_key_with_nothing_running_is_found_within_a_round(
    store: RunStore, fresh_database: PostgresSettings, limit: int
) -> None:
    """Everybody else is at work and has a long queue of older runs."""
    await run_sql(fresh_database, ADD_CROWD, add_runs(1, state="running"), add_runs(20))
    key = await add_key(store, fresh_database)
    [one] = await fill(fresh_database, key, 1, due_in_s=-1)

    claims = [await take(store, limit) for _ in range(CLAIMS_OF_A_ROUND)]

    assert [limit] * CLAIMS_OF_A_ROUND == [len(leases) for leases in claims]
    assert one in {lease.run_id for leases in claims for lease in leases}


@pytest.mark.parametrize("limit", [10, KEYS_LOOKED_AT, KEYS_LOOKED_AT + 50])
async def test_slots_are_shared_evenly_all_the_same(
    store: RunStore, fresh_database: PostgresSettings, limit: int
) -> None:
    """Three slots for each key: nobody gets more than one more, or one less."""
    await run_sql(fresh_database, ADD_CROWD, add_runs(20))
    running: Counter[object] = Counter()

    while running.total() < 3 * CROWD:
        leases = await take(store, min(limit, 3 * CROWD - running.total()))
        running.update(lease.key_id for lease in leases)

    assert CROWD == len(running)
    assert {2, 3, 4} >= set(running.values())


@pytest.mark.parametrize(
    ("what", "crowd"),
    [
        (
            "full",
            [add_runs(1, state="running"), add_runs(5), "UPDATE api_keys SET max_running = 1"],
        ),
        ("later", [add_runs(5, due_in="1 h")]),
        ("unknown", [add_runs(5, shape="'x:y'")]),
    ],
)
async def test_keys_that_have_nothing_to_claim_do_not_count(
    store: RunStore, fresh_database: PostgresSettings, what: str, crowd: list[str]
) -> None:
    """However many there are, the runs behind them are found by the next claim."""
    assert what
    await run_sql(fresh_database, ADD_CROWD, *crowd)
    key = await add_key(store, fresh_database)
    queue = await fill(fresh_database, key, 3)

    assert queue[:2] == [lease.run_id for lease in await take(store, 2)]
    assert queue[2:] == [lease.run_id for lease in await take(store, 2)]
    assert [] == await take(store, 2)


async def test_the_last_runs_are_found_wherever_a_claim_begins(
    store: RunStore, fresh_database: PostgresSettings
) -> None:
    """Claims go in a circle until nothing is left; each is full but the last."""
    await run_sql(fresh_database, ADD_CROWD, add_runs(1))

    sizes = [len(await take(store, 60)) for _ in range(6)]

    assert [60, 60, 60, 60, CROWD - 240, 0] == sizes


async def test_claimers_that_begin_at_the_same_key_are_not_short_changed(
    open_store: StoreFactory, fresh_database: PostgresSettings
) -> None:
    """Who finds that others are just taking the runs of its keys goes on with the next keys."""
    stores = [open_store() for _ in range(4)]
    await run_sql(fresh_database, ADD_CROWD, add_runs(2))
    await asyncio.gather(*(store.ping() for store in stores))

    claimed = await asyncio.gather(*(take(store, 100) for store in stores))

    assert 400 == len({lease.run_id for leases in claimed for lease in leases})
