"""Workers on the asyncio pool."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from kombu import pools

from config.redis import RedisSettings
from tests.integration.worker.pool_worker import PoolWorker, pool_worker


@pytest.fixture(scope="module")
def worker(
    redis_settings: RedisSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PoolWorker]:
    """One worker for all tests of a module; it records its signals."""
    log = tmp_path_factory.mktemp("worker") / "log"
    with pool_worker(redis_settings, log, POOL_APP_SIGNALS="1") as running:
        yield running


@pytest.fixture
def start_worker(
    redis_settings: RedisSettings, tmp_path: Path
) -> Iterator[Callable[..., PoolWorker]]:
    """Start a worker of one's own; options are -c, -P and environment variables."""
    own = redis_settings.model_copy(update={"db": 4})  # `worker` consumes the queue in database 0
    for url in (own.broker_url, own.result_url):
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    with ExitStack() as stack:

        def start(**options: str) -> PoolWorker:
            return stack.enter_context(pool_worker(own, tmp_path / "log", **options))

        yield start
    # kombu's pools are global: a connection that a test broke would wait there for the next one.
    pools.reset()
