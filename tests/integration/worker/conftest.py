"""A lab: real servers, real worker processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config.celery import CelerySettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from services.core.queue.publisher import HintPublisher
from services.core.runs.keys import generate_key, parse_key
from tests.integration.conftest import StoreFactory
from tests.integration.worker.lab import LEASE_TTL_S, Lab


@pytest.fixture
async def lab(
    tmp_path: Path,
    open_store: StoreFactory,
    fresh_database: PostgresSettings,
    clean_redis: RedisSettings,
) -> AsyncIterator[Lab]:
    """A lab without workers yet."""
    store = open_store(lease_ttl_s=LEASE_TTL_S, rehint_after_s=3)
    parsed = parse_key(generate_key())
    assert parsed is not None
    prefix, key_hash = parsed
    app = create_celery_app(clean_redis, CelerySettings())
    lab = Lab(
        folder=tmp_path,
        store=store,
        key=await store.add_key(name="lab", prefix=prefix, key_hash=key_hash),
        publisher=HintPublisher(app),
        servers=(fresh_database, clean_redis),
    )
    yield lab
    lab.close()
    lab.publisher.close()
    app.close()
