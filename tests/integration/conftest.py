"""Real Redis and PostgreSQL for integration tests, started once per session.

`postgres_settings` and `redis_settings` are the servers. `database` is an empty migrated database
for one test, and `clean_redis` is Redis without keys.
"""

from collections.abc import Iterator

import pytest
import redis

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from tests.integration import servers


@pytest.fixture(scope="session")
def postgres_settings() -> Iterator[PostgresSettings]:
    """A running PostgreSQL server, as its superuser."""
    start = servers.postgres_container if servers.uses_containers() else servers.embedded_postgres
    with start() as settings:
        yield settings


@pytest.fixture(scope="session")
def redis_settings() -> Iterator[RedisSettings]:
    """A running Redis server with a password."""
    start = servers.redis_container if servers.uses_containers() else servers.embedded_redis
    with start() as settings:
        yield settings


@pytest.fixture
def clean_redis(redis_settings: RedisSettings) -> RedisSettings:
    """Redis without a key in any database."""
    with redis.Redis.from_url(redis_settings.broker_url) as client:
        client.flushall()
    return redis_settings
