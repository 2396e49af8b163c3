"""A lab: real servers, real worker processes."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from config.celery import CelerySettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from services.core.runs.keys import generate_key, parse_key
from services.core.runs.store import RunStore
from tests.integration.conftest import StoreFactory
from tests.integration.fragile_redis import FragileRedis, fragile_redis
from tests.integration.worker.lab import LEASE_TTL_S, Lab


@asynccontextmanager
async def _open_lab(
    folder: Path, store: RunStore, servers: tuple[PostgresSettings, RedisSettings]
) -> AsyncIterator[Lab]:
    parsed = parse_key(generate_key())
    assert parsed is not None
    prefix, key_hash = parsed
    app = create_celery_app(servers[1], CelerySettings())
    lab = Lab(
        folder=folder,
        store=store,
        key=await store.add_key(name="lab", prefix=prefix, key_hash=key_hash),
        app=app,
        servers=servers,
    )
    try:
        yield lab
    finally:
        lab.close()
        app.close()


@pytest.fixture
async def lab(
    tmp_path: Path,
    open_store: StoreFactory,
    fresh_database: PostgresSettings,
    clean_redis: RedisSettings,
) -> AsyncIterator[Lab]:
    """A lab without workers yet."""
    store = open_store(lease_ttl_s=LEASE_TTL_S, rehint_after_s=3)
    async with _open_lab(tmp_path, store, (fresh_database, clean_redis)) as lab:
        yield lab


@pytest.fixture
def fragile() -> Iterator[FragileRedis]:
    """A running Redis that a test may hurt."""
    with fragile_redis() as server:
        yield server


@pytest.fixture
async def fragile_lab(
    tmp_path: Path,
    open_store: StoreFactory,
    fresh_database: PostgresSettings,
    fragile: FragileRedis,
) -> AsyncIterator[Lab]:
    """A lab on it."""
    store = open_store(lease_ttl_s=LEASE_TTL_S, rehint_after_s=3)
    async with _open_lab(tmp_path, store, (fresh_database, fragile.settings)) as lab:
        yield lab
