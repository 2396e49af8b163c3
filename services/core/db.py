"""PostgreSQL: prepared statements, a bound on every wait, one place that knows its errors."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import asyncpg

from services.core.errors import StoreFullError, StoreUnavailableError
from services.core.pool import Connection, Pool, Row

# SQLSTATE classes that say "not now" rather than "wrong": connection, read-only standby,
# login, no such database, deadlock, out of resources, lock, operator, system.
# https://www.postgresql.org/docs/17/errcodes-appendix.html
UNAVAILABLE_CLASSES = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58"})
DISK_FULL = "53100"
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")


class Statement:
    """SQL with `:names` for parameters, and as PostgreSQL takes it: with numbers."""

    __slots__ = ("names", "numbered", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        numbers = {name: f"${number}" for number, name in enumerate(self.names, 1)}
        self.numbered = _PARAMETER.sub(lambda match: numbers[match[1]], text)


TRY_LOCK = Statement("SELECT pg_try_advisory_lock(:lock)")


class Session:
    """One connection for as long as a transaction or a lock needs it."""

    def __init__(
        self,
        connection: Connection,
        bounded: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self._connection = connection
        self._bounded = bounded

    async def fetch(
        self, statement: Statement, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Run one statement.

        Raises:
            StoreUnavailableError: No answer in time, or the connection is gone, and with it transaction and lock.
        """
        async with self._bounded():
            return await _fetch(self._connection, statement, parameters)


class Database:
    """Runs statements, each within a bounded time."""

    def __init__(self, pool: Pool, *, timeout_s: float) -> None:
        """Take the connections; nothing connects yet.

        Args:
            pool: Where connections are.
            timeout_s: Seconds that a transaction may take, the wait for a connection included.
        """
        self._pool = pool
        self._timeout_s = timeout_s

    async def fetch(
        self, statement: Statement, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Run one statement as a transaction of its own, in one round trip.

        Raises:
            StoreUnavailableError: No answer in time; the statement may have been committed or not.
        """
        async with self._bounded():
            connection = await self._pool.take()
            try:
                return await _fetch(connection, statement, parameters)
            finally:
                self._pool.give_back(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A transaction of several statements, committed at the end; raises as `fetch` does."""
        async with self._bounded():
            connection = await self._pool.take()
            try:
                async with _transaction(connection):
                    yield Session(connection)  # bounded as a whole
            finally:
                self._pool.give_back(connection)

    @asynccontextmanager
    async def only_one(self, lock: int) -> AsyncIterator[Session | None]:
        """Be the only process of all with this lock; None if another one is.

        The lock ends with the connection that it is on, so a process that dies leaves none behind;
        that connection is not used for anything else, and closed in the end.
        """
        async with self._bounded():
            connection = await self._pool.take()
        try:
            session = Session(connection, self._bounded)
            (row,) = await session.fetch(TRY_LOCK, {"lock": lock})
            yield session if row[0] else None
        finally:
            connection.terminate()
            self._pool.give_back(connection)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Hold a transaction to its time; every kind of absence is a StoreUnavailableError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (OSError, asyncpg.InternalClientError) as error:  # TimeoutError is an OSError
            raise StoreUnavailableError from error
        except asyncpg.DataError:
            raise
        except asyncpg.InterfaceError as error:  # the connection is gone
            raise StoreUnavailableError from error
        except asyncpg.PostgresError as error:
            if error.sqlstate == DISK_FULL:
                raise StoreFullError from error
            if error.sqlstate is None or error.sqlstate[:2] not in UNAVAILABLE_CLASSES:
                raise
            raise StoreUnavailableError from error


async def _fetch(
    connection: Connection, statement: Statement, parameters: Mapping[str, Any] | None
) -> Sequence[Row]:
    """The rows of a prepared statement.

    A connection without its answer is closed at once: asyncpg would first wait for a frozen server.
    """
    arguments = [parameters[name] for name in statement.names] if parameters else ()
    try:
        return await connection.fetch(statement.numbered, *arguments)
    except (asyncpg.PostgresError, asyncpg.DataError):
        raise
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """Begin and commit; after an error the connection is as before, or closed."""
    try:
        await connection.execute("BEGIN")
        yield
        await connection.execute("COMMIT")
    except Exception:
        if not connection.is_closed():
            await _roll_back(connection)
        raise
    except BaseException:
        connection.terminate()
        raise


async def _roll_back(connection: Connection) -> None:
    """End a transaction without effect."""
    try:
        await connection.execute("ROLLBACK")
    except BaseException:
        connection.terminate()
        raise
