"""Looks at PostgreSQL and Redis of a stack, as an onlooker who takes no part."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import redis

from tests.bench.stack import Stack

CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock'
"""
WAITING = """
    SELECT count(*) FROM pg_stat_activity
     WHERE application_name = 'penstock' AND wait_event_type = 'Lock'
"""
UNFINISHED = """
    SELECT count(*) FROM runs WHERE state IN ('queued', 'running')
"""


class Onlooker:
    """Asks PostgreSQL and Redis."""

    def __init__(
        self,
        runner: asyncio.Runner,
        connection: "asyncpg.Connection[asyncpg.Record]",
        client: "redis.Redis",
    ) -> None:
        self._runner = runner
        self._connection = connection
        self._redis = client

    def ask(self, query: str) -> float:
        """The one number that a query gives."""
        return float(self._runner.run(self._connection.fetchval(query)) or 0)

    def tell(self, statement: str) -> None:
        """Run a statement."""
        self._runner.run(self._connection.execute(statement))

    def redis_info(self) -> dict[str, Any]:
        """What Redis says of itself."""
        info: Any = self._redis.info()
        return dict(info)


@contextmanager
def looking_at(stack: Stack) -> Iterator[Onlooker]:
    """An onlooker with a connection to each server."""
    postgres, settings = stack.postgres, stack.redis
    assert postgres.password is not None
    assert settings.password is not None
    with (
        asyncio.Runner() as runner,
        redis.Redis(
            host=settings.host,
            port=settings.port,
            password=settings.password.get_secret_value(),
        ) as client,
    ):
        connection = runner.run(
            asyncpg.connect(
                host=postgres.host,
                port=postgres.port,
                user=postgres.user,
                database=postgres.db,
                password=postgres.password.get_secret_value(),
            )
        )
        try:
            yield Onlooker(runner, connection, client)
        finally:
            runner.run(connection.close())
