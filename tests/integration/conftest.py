"""Real Redis and PostgreSQL for integration tests, started once per session.

`postgres_settings` and `redis_settings` are the servers. `fresh_database` is an empty migrated
database for one test, `module_database` one for a module, `store` a RunStore on a fresh one,
`api_key` a key in it, and `clean_redis` is Redis without keys.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import pytest
import redis

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.pool import Pool
from services.core.runs.keys import generate_key, parse_key
from services.core.runs.models import ApiKey
from services.core.runs.store import RunStore
from services.migrate.__main__ import prepare
from tests.integration import servers

Result = TypeVar("Result")
StoreFactory = Callable[..., RunStore]
TEMPLATE = "penstock_template"
ALWAYS_SWEPT = "INSERT INTO sweep_clock VALUES (1, 'infinity', '-infinity')"
"""In tests nobody sweeps but they, and no pause between their sweeps means that PostgreSQL was away."""


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


@pytest.fixture(scope="session")
def template_database(postgres_settings: PostgresSettings) -> str:
    """A migrated database that others are copied from, which takes a tenth of migrating."""
    return migrated(postgres_settings)


@pytest.fixture
def fresh_database(
    postgres_settings: PostgresSettings, template_database: str
) -> Iterator[PostgresSettings]:
    """An empty migrated database for one test."""
    with database_of(postgres_settings, template=template_database) as database:
        yield database


@pytest.fixture(scope="module")
def module_database(
    postgres_settings: PostgresSettings, template_database: str
) -> Iterator[PostgresSettings]:
    """An empty migrated database for the tests of one module."""
    with database_of(postgres_settings, template=template_database) as database:
        yield database


@pytest.fixture
async def open_store(fresh_database: PostgresSettings) -> AsyncIterator[StoreFactory]:
    """Opens stores on the fresh database, as several processes would; takes RunStore's options."""
    stores: list[RunStore] = []

    def open_one(**options: Any) -> RunStore:
        usual = {
            "lease_ttl_s": 30,
            "max_crashes": 3,
            "rehint_after_s": 10,
            "max_queued_runs": 100_000,
        }
        store = RunStore(Pool(fresh_database), **(usual | options))
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
def store(open_store: StoreFactory) -> RunStore:
    """A store on a fresh database."""
    return open_store()


@pytest.fixture
async def api_key(store: RunStore) -> ApiKey:
    """A key in the store's database."""
    parsed = parse_key(generate_key())
    assert parsed is not None
    prefix, key_hash = parsed
    return await store.add_key(name="test", prefix=prefix, key_hash=key_hash)


def migrated(server: PostgresSettings) -> str:
    """Make the database that others are copied from; its name."""
    _run(_execute(server, f"CREATE DATABASE {TEMPLATE}"))
    template = server.model_copy(update={"db": TEMPLATE})
    _run(prepare(template, None))
    _run(_execute(template, ALWAYS_SWEPT))
    return TEMPLATE


@contextmanager
def database_of(server: PostgresSettings, *, template: str) -> Iterator[PostgresSettings]:
    """A copy of a database, dropped afterwards."""
    name = f"test_{uuid4().hex}"
    _run(_execute(server, f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield server.model_copy(update={"db": name})
    finally:
        _run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _execute(settings: PostgresSettings, sql: str) -> None:
    """Run a statement outside of any transaction."""
    assert settings.password is not None
    connection = await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password.get_secret_value(),
        database=settings.db,
    )
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def _run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Wait for a coroutine on a loop in a thread of its own, whether or not a test's loop runs."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
