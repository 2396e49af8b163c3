"""A lab of real servers and worker processes; and workers that run the pool alone."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from config.celery import CelerySettings
from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from services.core.queue.publisher import HintPublisher
from services.core.runs.keys import generate_key, parse_key
from tests.integration.conftest import StoreFactory
from tests.integration.worker.lab import LEASE_TTL_S, Lab
from tests.integration.worker.pool_worker import PoolWorker, pool_worker


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


@pytest.fixture(scope="module")
def worker(
    redis_settings: RedisSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PoolWorker]:
    """One pool worker for all tests of a module; it records its signals."""
    log = tmp_path_factory.mktemp("worker") / "log"
    with pool_worker(redis_settings, log, POOL_APP_SIGNALS="1") as running:
        yield running


@pytest.fixture
def start_worker(
    redis_settings: RedisSettings, tmp_path: Path
) -> Iterator[Callable[..., PoolWorker]]:
    """Start a pool worker of one's own; options are -c, -P and environment variables."""
    own = redis_settings.model_copy(update={"db": 4})  # `worker` consumes the queue in database 0
    for url in (own.broker_url, own.result_url):
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    with ExitStack() as stack:

        def start(**options: str) -> PoolWorker:
            return stack.enter_context(pool_worker(own, tmp_path / "log", **options))

        yield start
