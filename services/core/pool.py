"""Connections to PostgreSQL: opened when they are needed, closed when they no longer are."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import asyncpg

from config.postgres import PostgresSettings
from services.core.clock import monotonic_s

IDLE_S = 60.0
"""Seconds after which a connection that nobody needed is closed, by whoever gives one back then."""

NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


class Row(asyncpg.Record):
    """A row, whose columns are attributes as well."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Connection: TypeAlias = "asyncpg.Connection[Row]"


class Pool:
    """The connections of one process, on one event loop.

    asyncpg has a pool as well: it starts a task to give a connection back, and waits there for a server that is frozen.
    Here the connection that was used last is the first to be used again, so that those which a burst has opened stay
    idle afterwards, and are closed.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        idle_s: float = IDLE_S,
        options: Mapping[str, str] = NO_OPTIONS,
    ) -> None:
        """Take where PostgreSQL is; nothing connects yet.

        Args:
            settings: With the number of connections and the bounds on their use.
            idle_s: Seconds for which a connection is kept that nobody needs.
            options: PostgreSQL's settings for these connections, besides those that all have.
        """
        self._settings = settings
        self._idle_s = idle_s
        self._options = options
        self._idle: deque[tuple[Connection, float]] = deque()
        self._free = asyncio.Semaphore(settings.pool_size)

    def apart(self, options: Mapping[str, str]) -> "Pool":
        """One more connection to the same PostgreSQL, for statements that need settings of their own."""
        settings = self._settings.model_copy(update={"pool_size": 1})
        return Pool(settings, idle_s=self._idle_s, options=options)

    async def take(self) -> Connection:
        """A connection that is nobody else's until it is given back; waits while all are taken.

        What a restart of PostgreSQL has closed is replaced. That costs nothing, unlike a round trip before every
        statement; a server that is gone without a word is noticed by the bounds on statements.
        """
        await self._free.acquire()
        try:
            while self._idle:
                connection, _ = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await connect(self._settings, self._options)
        except BaseException:
            self._free.release()
            raise

    def give_back(self, connection: Connection) -> None:
        """Let others have a connection, unless it is closed."""
        now_s = monotonic_s()
        if not connection.is_closed():
            self._idle.append((connection, now_s))
        while self._idle and now_s - self._idle[0][1] > self._idle_s:
            self._idle.popleft()[0].terminate()
        self._free.release()

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.close(timeout=self._settings.connect_timeout_s)


async def connect(
    settings: PostgresSettings, options: Mapping[str, str] = NO_OPTIONS
) -> Connection:
    """A connection with bounds on both sides."""
    connection = await asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password.get_secret_value() if settings.password else None,
        database=settings.db,
        timeout=settings.connect_timeout_s,
        command_timeout=settings.statement_timeout_s,
        server_settings={**server_settings(settings), **options},
        # Every statement is prepared once; there are some dozens, and some are long.
        statement_cache_size=200,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        record_class=Row,
    )
    try:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=str, decoder=json.loads
            )
    except BaseException:
        connection.terminate()
        raise
    return connection


def server_settings(settings: PostgresSettings) -> dict[str, str]:
    """What each connection asks of PostgreSQL."""
    statement_timeout_ms = str(round(settings.statement_timeout_s * 1000))
    return {
        "application_name": "penstock",
        "timezone": "UTC",
        "statement_timeout": statement_timeout_ms,
        "idle_in_transaction_session_timeout": statement_timeout_ms,
        # Its first compilation costs more than any statement here could gain.
        "jit": "off",
    }
