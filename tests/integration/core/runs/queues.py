"""Keys and queues of many runs, put into the record by one statement."""

import os
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from config.postgres import PostgresSettings
from services.core.runs.models import ApiKey
from services.core.runs.store import RunStore
from services.migrate.engine import create_engine
from tests.integration.core.runs.pieces import SHAPES

FILL = text(
    """
    INSERT INTO runs (id, key_id, pipeline, state, input, metadata, priority, shape, next_at)
    SELECT gen_random_uuid(), CAST(:key_id AS uuid), 'a', 'queued', '{}', '{}', :priority, :shape,
           now() + :due_in + make_interval(secs => n / 1000.0)
      FROM generate_series(1, :runs) AS n
    RETURNING id
    """
)
LIMIT = text("UPDATE api_keys SET max_running = :max_running WHERE id = :key_id")


async def add_key(
    store: RunStore, database: PostgresSettings, *, max_running: int | None = None
) -> ApiKey:
    """One more key."""
    key = await store.add_key(name="k", prefix=os.urandom(6).hex(), key_hash=os.urandom(32))
    engine = create_engine(database)
    async with engine.begin() as connection:
        await connection.execute(LIMIT, {"max_running": max_running, "key_id": key.id})
    await engine.dispose()
    return key


async def fill(
    database: PostgresSettings,
    key: ApiKey,
    runs: int,
    *,
    priority: int = 0,
    due_in_s: float = -60,
    shape: str | None = SHAPES[1],
) -> list[UUID]:
    """Queue runs of a key, a millisecond apart; their ids, the earliest first."""
    engine = create_engine(database.model_copy(update={"statement_timeout_s": 60}))
    async with engine.begin() as connection:
        rows = await connection.execute(
            FILL,
            {
                "key_id": key.id,
                "runs": runs,
                "priority": priority,
                "due_in": timedelta(seconds=due_in_s),
                "shape": shape,
            },
        )
        ids = list(rows.scalars())
    await engine.dispose()
    return ids
