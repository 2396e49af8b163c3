"""Migrations go up and down, and make exactly what the models say."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from config.postgres import PostgresSettings
from services.core.db import create_engine
from services.core.runs.tables import metadata
from services.migrate.migrations import alembic_config, migrate

Seen = TypeVar("Seen")


async def run(database: PostgresSettings, alembic: Callable[[Config], None]) -> tuple[str, str]:
    """Run an Alembic command."""
    engine = create_engine(database)
    try:
        return await migrate(engine, alembic)
    finally:
        await engine.dispose()


async def inspected(database: PostgresSettings, look: Callable[[Connection], Seen]) -> Seen:
    """Look at a database."""
    engine = create_engine(database)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(look)
    finally:
        await engine.dispose()


def tables(connection: Connection) -> list[str]:
    """The tables that there are."""
    return sorted(inspect(connection).get_table_names())


async def test_migrations_go_up_and_down_and_up_again(empty_database: PostgresSettings) -> None:
    """A deployment can be undone: down leaves nothing behind, and up works again."""
    up, down = (
        partial(command.upgrade, revision="head"),
        partial(command.downgrade, revision="base"),
    )

    assert await run(empty_database, up) == ("empty", "0002")
    full = await inspected(empty_database, tables)
    assert await run(empty_database, down) == ("0002", "empty")
    assert await inspected(empty_database, tables) == ["alembic_version"]
    await run(empty_database, up)

    assert full == sorted([*metadata.tables, "alembic_version"])
    assert await inspected(empty_database, tables) == full


async def test_the_models_are_what_the_migrations_make(fresh_database: PostgresSettings) -> None:
    """No column, index, constraint or default is in one and not in the other."""

    def differences(connection: Connection) -> object:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return compare_metadata(context, metadata)

    assert await inspected(fresh_database, differences) == []


async def test_checks_and_storage_are_what_the_models_say(
    fresh_database: PostgresSettings, empty_database: PostgresSettings
) -> None:
    """What Alembic does not compare, checks, operator classes and storage, agrees as well."""
    query = text(
        """
        SELECT 'check ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) AS it
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL
        SELECT 'table ' || relname || ' ' || coalesce(reloptions::text, '')
          FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        ORDER BY it
        """
    )

    async def described(connection: AsyncConnection) -> list[str]:
        rows = (await connection.execute(query)).scalars().all()
        return [row for row in rows if "alembic_version" not in row]

    migrated, modelled = create_engine(fresh_database), create_engine(empty_database)
    async with modelled.begin() as connection:
        await connection.run_sync(metadata.create_all)
        expected = await described(connection)
    async with migrated.connect() as connection:
        actual = await described(connection)
    await asyncio.gather(migrated.dispose(), modelled.dispose())

    assert expected == actual
    assert any("fillfactor=75" in line for line in actual)


async def test_there_is_one_newest_migration(fresh_database: PostgresSettings) -> None:
    """Two branches that each add a migration must be put in order before they land."""

    def heads(connection: Connection) -> list[str]:
        return list(ScriptDirectory.from_config(alembic_config(connection)).get_heads())

    assert len(await inspected(fresh_database, heads)) == 1


async def test_two_at_once_migrate_once(empty_database: PostgresSettings) -> None:
    """Two deployments that start together do not get in each other's way."""
    up = partial(command.upgrade, revision="head")

    results = await asyncio.gather(*(run(empty_database, up) for _ in range(3)))

    assert sorted(results) == [("0002", "0002"), ("0002", "0002"), ("empty", "0002")]
