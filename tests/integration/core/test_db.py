"""The record's connections: bounded, not more than needed, and as before after whatever went wrong."""

import asyncio

import asyncpg
import pytest

from config.postgres import PostgresSettings
from services.core.db import Database, Session, Statement
from services.core.errors import StoreUnavailableError
from services.core.pool import Pool

PID = Statement("SELECT pg_backend_pid() AS pid")
SLEEP = Statement("SELECT pg_sleep(CAST(:seconds AS double precision))")


async def pid_of(database: Database | Session) -> int:
    """Which of PostgreSQL's processes answers."""
    [row] = await database.fetch(PID)
    return int(row.pid)


async def test_the_server_ends_what_runs_too_long(postgres_settings: PostgresSettings) -> None:
    """Even if a process dies, what it began on the server ends in time."""
    pool = Pool(postgres_settings.model_copy(update={"statement_timeout_s": 1.5}))
    database = Database(pool, timeout_s=5)
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "application_name")

    found = [(await database.fetch(Statement(f"SHOW {name}")))[0][0] for name in names]
    await database.close()

    assert found == ["1500ms", "1500ms", "penstock"]


async def test_statements_are_prepared_once(postgres_settings: PostgresSettings) -> None:
    """A parameter may be used twice; rows have attributes; JSON comes as Python's values."""
    database = Database(Pool(postgres_settings), timeout_s=5)
    statement = Statement(
        """SELECT CAST(:number AS integer) AS number, :number + 1 AS next, CAST(:json AS jsonb) AS json"""
    )
    prepared = Statement(
        "SELECT count(*) AS n FROM pg_prepared_statements WHERE statement LIKE '%AS next%'"
    )

    for number in (1, 2):
        [row] = await database.fetch(statement, {"json": '{"a": [1]}', "number": number})
    counts = await database.fetch(prepared)
    await database.close()

    assert (row.number, row.next, row.json) == (2, 3, {"a": [1]})
    with pytest.raises(AttributeError):
        _ = row.other
    assert [count.n for count in counts] == [2]  # itself included


async def test_a_burst_leaves_no_connections_behind(postgres_settings: PostgresSettings) -> None:
    """What nobody has needed for a while is closed, and the rest used again."""
    pool = Pool(postgres_settings, idle_s=0.2)
    database = Database(pool, timeout_s=5)
    count = Statement("SELECT count(*) AS n FROM pg_stat_activity WHERE pid = ANY (:pids)")

    async def one_of_many() -> int:
        async with database.transaction() as session:
            await session.fetch(SLEEP, {"seconds": 0.05})
            return await pid_of(session)

    pids = await asyncio.gather(*(one_of_many() for _ in range(20)))
    assert len(set(pids)) == postgres_settings.pool_size
    for _ in range(5):
        kept = await pid_of(database)
        await asyncio.sleep(0.1)
    [alive] = await database.fetch(count, {"pids": pids})
    await database.close()

    assert kept in pids
    assert alive.n == 1


async def test_a_statement_without_an_answer_gives_its_place_to_others(
    postgres_settings: PostgresSettings,
) -> None:
    """Its connection is closed at once; the next caller has another."""
    settings = postgres_settings.model_copy(update={"pool_size": 1})
    database = Database(Pool(settings), timeout_s=0.3)
    before = await pid_of(database)

    with pytest.raises(StoreUnavailableError):
        await database.fetch(SLEEP, {"seconds": 2})
    after = await pid_of(database)
    await database.close()

    assert before != after


async def test_a_refused_statement_leaves_the_connection_as_it_was(
    postgres_settings: PostgresSettings,
) -> None:
    """Wrong SQL, a wrong parameter and an error in a transaction: the connection serves on, outside of any."""
    settings = postgres_settings.model_copy(update={"pool_size": 1})
    database = Database(Pool(settings), timeout_s=5)
    before = await pid_of(database)

    with pytest.raises(asyncpg.UndefinedTableError):
        await database.fetch(Statement("SELECT * FROM nothing"))
    with pytest.raises(asyncpg.DataError):
        await database.fetch(SLEEP, {"seconds": "long"})
    with pytest.raises(LookupError):  # noqa: PT012 - the error is raised within a transaction
        async with database.transaction() as session:
            await session.fetch(PID)
            raise LookupError
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.transaction() as session:
            await session.fetch(Statement("SELECT * FROM nothing"))
    await database.fetch(Statement("CREATE TEMPORARY TABLE gone () ON COMMIT DROP"))
    [row] = await database.fetch(
        Statement("SELECT pg_backend_pid() AS pid, to_regclass('gone') AS gone")
    )
    await database.close()

    assert (row.pid, row.gone) == (before, None)


async def test_who_is_cancelled_in_a_transaction_leaves_no_lock(
    postgres_settings: PostgresSettings,
) -> None:
    """The transaction ends with its connection."""
    database = Database(Pool(postgres_settings), timeout_s=5)
    lock = Statement("SELECT pg_try_advisory_xact_lock(42) AS is_ours")
    has_begun = asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as session:
            await session.fetch(lock)
            has_begun.set()
            await asyncio.sleep(10)

    holding = asyncio.create_task(hold())
    await has_begun.wait()
    holding.cancel()
    await asyncio.wait({holding})
    for _ in range(100):
        [row] = await database.fetch(lock)
        if row.is_ours:
            break
        await asyncio.sleep(0.02)
    await database.close()

    assert row.is_ours


async def test_a_lock_ends_with_its_connection(postgres_settings: PostgresSettings) -> None:
    """Only one has it; afterwards another may, and its connection is not used again."""
    database = Database(Pool(postgres_settings), timeout_s=5)

    async with database.only_one(7) as session, database.only_one(7) as other:
        assert session is not None
        assert other is None
        holder = await pid_of(session)
    async with database.only_one(7) as again:
        assert again is not None
        assert await pid_of(again) != holder
    await database.close()


def test_a_pool_shows_no_password(postgres_settings: PostgresSettings) -> None:
    """A pool in a log line keeps its secret."""
    assert postgres_settings.password is not None

    assert postgres_settings.password.get_secret_value() not in repr(vars(Pool(postgres_settings)))
