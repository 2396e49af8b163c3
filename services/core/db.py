"""PostgreSQL: one engine per process, a bound on every wait, one place that knows its errors."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy import URL, Executable, Row, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from config.postgres import PostgresSettings
from services.core.errors import StoreFullError, StoreUnavailableError

# SQLSTATE classes that say "not now" rather than "wrong": connection, read-only standby,
# login, no such database, deadlock, out of resources, lock, operator, system.
# https://www.postgresql.org/docs/17/errcodes-appendix.html
UNAVAILABLE_CLASSES = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58"})
DISK_FULL = "53100"
TRY_LOCK = text("SELECT pg_try_advisory_lock(:lock)")


def create_engine(settings: PostgresSettings) -> AsyncEngine:
    """An engine that connects when first used."""
    statement_timeout_ms = str(round(settings.statement_timeout_s * 1000))
    engine = create_async_engine(
        URL.create(
            "postgresql+asyncpg",
            username=settings.user,
            password=settings.password.get_secret_value() if settings.password else None,
            host=settings.host,
            port=settings.port,
            database=settings.db,
        ),
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=settings.statement_timeout_s,
        hide_parameters=True,  # inputs and outputs must not end up in logs
        connect_args={
            "timeout": settings.connect_timeout_s,
            "command_timeout": settings.statement_timeout_s,
            "server_settings": {
                "application_name": "penstock",
                "timezone": "UTC",
                "statement_timeout": statement_timeout_ms,
                "idle_in_transaction_session_timeout": statement_timeout_ms,
                # Its first compilation costs more than any statement here could gain.
                "jit": "off",
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "invalidate", _drop)
    return engine


def _refuse_closed(
    _connection: object, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """Replace connections that a restart of PostgreSQL has closed.

    Costs nothing, unlike pool_pre_ping, which is a round trip for every statement. A server that is
    gone without a word is noticed by the timeouts.
    """
    driver_connection = record.driver_connection
    if driver_connection is not None and driver_connection.is_closed():
        raise InvalidatePoolError


def _drop(_connection: object, record: ConnectionPoolEntry, _error: BaseException | None) -> None:
    """Close a broken connection at once: saying goodbye to a frozen server would take 2 s more."""
    driver_connection = record.driver_connection
    if driver_connection is not None:
        driver_connection.terminate()


class Database:
    """Runs statements, each within a bounded time."""

    def __init__(self, engine: AsyncEngine, *, timeout_s: float) -> None:
        """Take the engine; nothing connects yet.

        Args:
            engine: From create_engine.
            timeout_s: Seconds that a transaction may take, the wait for a connection included.
        """
        self._engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._timeout_s = timeout_s

    async def fetch(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Run one statement as a transaction of its own, in one round trip.

        Raises:
            StoreUnavailableError: No answer in time; the statement may have been committed or not.
        """
        async with self._bounded(), self._autocommit.connect() as connection:
            result = await connection.execute(statement, parameters)
            return result.all() if result.returns_rows else ()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of several statements, committed at the end; raises as `fetch` does."""
        async with self._bounded(), self._engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def only_one(self, lock: int) -> AsyncIterator["LockedSession | None"]:
        """Be the only process of all with this lock; None if another one is.

        The lock ends with the connection that it is on, so a process that dies leaves none behind;
        that connection is not used for anything else, and closed in the end.
        """
        async with self._bounded():
            connection = await self._autocommit.connect()
        try:
            session = LockedSession(connection, self._bounded)
            (row,) = await session.fetch(TRY_LOCK, {"lock": lock})
            yield session if row[0] else None
        finally:
            await connection.invalidate()
            await connection.close()

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Hold a transaction to its time; every kind of absence is a StoreUnavailableError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (OSError, PoolTimeoutError, DBAPIError) as error:  # TimeoutError is an OSError
            sqlstate: str | None = getattr(getattr(error, "orig", None), "sqlstate", None)
            if isinstance(error, DBAPIError) and not _is_unavailable(error, sqlstate):
                raise
            if sqlstate == DISK_FULL:
                raise StoreFullError from error
            raise StoreUnavailableError from error


class LockedSession:
    """The connection that holds a lock: what it still executes, it executes under the lock."""

    def __init__(
        self,
        connection: AsyncConnection,
        bounded: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._connection = connection
        self._bounded = bounded

    async def fetch(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        """Run one statement as a transaction of its own.

        Raises:
            StoreUnavailableError: No answer in time, or the connection is gone, and with it the lock.
        """
        async with self._bounded():
            result = await self._connection.execute(statement, parameters)
            return result.all() if result.returns_rows else ()


def _is_unavailable(error: DBAPIError, sqlstate: str | None) -> bool:
    """Whether the error is about PostgreSQL's state rather than about the statement."""
    if sqlstate is None:
        return error.connection_invalidated or type(error).__name__ == "InterfaceError"
    return sqlstate[:2] in UNAVAILABLE_CLASSES
