"""Pages have room for the next versions of their rows."""

import asyncio

from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.conftest import StoreFactory
from tests.integration.core.runs.pieces import accept

BATCH = 100
RUNS = 10 * BATCH
INDEX_PAGES = text(
    """
    SELECT (pg_relation_size('runs_pkey') + pg_relation_size('steps_pkey'))
           / current_setting('block_size')::integer
    """
)
SHARE_OF_HOT = text(
    """
    SELECT n_tup_hot_upd::double precision / n_tup_upd
      FROM pg_stat_user_tables WHERE relname = 'steps' AND n_tup_upd = :updated
    """
)


async def test_a_backlog_is_worked_off_on_its_own_pages(
    open_store: StoreFactory, fresh_database: PostgresSettings, api_key: ApiKey
) -> None:
    """Starts and checkpoints of steps mostly write no index, and primary keys are not split."""
    store = open_store()
    engine = create_engine(fresh_database)
    fields = {"pipeline": "a", "step_names": ("one",)}
    await asyncio.gather(*(accept(store, api_key, **fields) for _ in range(RUNS)))
    async with engine.connect() as connection:
        pages = await connection.scalar(INDEX_PAGES)

    for _ in range(RUNS // BATCH):
        await work_off(store)
    await store.close()  # what a connection has counted is told by its end at the latest

    async with asyncio.timeout(10), engine.connect() as connection:
        assert await connection.scalar(INDEX_PAGES) <= pages * 1.2
        while (share := await connection.scalar(SHARE_OF_HOT, {"updated": 2 * RUNS})) is None:
            await connection.rollback()
            await asyncio.sleep(0.1)
    await engine.dispose()
    assert share > 0.7


async def work_off(store: RunStore) -> None:
    """Execute one batch of runs."""
    leases = await store.claim_due_runs(owner="w1", limit=BATCH, shapes=["a:one"])
    assert len(leases) == BATCH
    await asyncio.gather(*(store.finish_run(lease, {"n": 1}, step="one") for lease in leases))
