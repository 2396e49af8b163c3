"""Migrations go up and down, and make exactly what the models say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from config.postgres import PostgresSettings
from services.core.pool import Pool
from services.core.runs.store import RunStore
from services.core.runs.tables import metadata
from services.migrate.engine import create_engine
from services.migrate.migrations import alembic_config, migrate
from tests.integration.core.runs.pieces import run_sql

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

    assert await run(empty_database, up) == ("empty", "0005")
    full = await inspected(empty_database, tables)
    assert await run(empty_database, down) == ("0005", "empty")
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


# As release 0001 wrote them: a run with its steps and its event, and a heartbeat.
OLD_ACCEPT = """
    WITH accepted AS (
        INSERT INTO runs (id, key_id, idempotency_key, request_hash, pipeline, state, input,
                          metadata, priority, budget_usd, traceparent, hint_at, event_seq)
        SELECT gen_random_uuid(), id, NULL, NULL, 'p', 'queued', '{}', '{}', 0, NULL, NULL, now(), 1
          FROM api_keys
     RETURNING id),
    planned AS (
        INSERT INTO steps (run_id, name, position, state)
        SELECT id, step.name, step.position, 'pending'
          FROM accepted,
               unnest(ARRAY['second', 'first']) WITH ORDINALITY AS step (name, position))
    INSERT INTO events (run_id, seq, type, data) SELECT id, 1, 'run.queued', '{}' FROM accepted
"""
OLD_HEARTBEAT = """
    INSERT INTO heartbeats (process, kind) VALUES ('w1', 'worker')
        ON CONFLICT (process) DO UPDATE SET kind = excluded.kind, at = now()
"""
ADD_KEY = """
    INSERT INTO api_keys (id, prefix, name, key_hash)
    VALUES (gen_random_uuid(), '000000000000', 'old', '\\x00')
"""


@pytest.fixture
async def store(empty_database: PostgresSettings) -> AsyncIterator[RunStore]:
    """A store of today on a database that a test migrates."""
    store = RunStore(
        Pool(empty_database),
        lease_ttl_s=30,
        max_crashes=3,
        rehint_after_s=10,
        max_queued_runs=1000,
    )
    yield store
    await store.close()


async def test_what_waits_is_given_its_shape(
    empty_database: PostgresSettings, store: RunStore
) -> None:
    """Runs that were accepted before 0002 go to workers that know their steps, in their order."""
    await run(empty_database, partial(command.upgrade, revision="0001"))
    await run_sql(empty_database, ADD_KEY, OLD_ACCEPT, OLD_ACCEPT)
    await run_sql(
        empty_database,
        "UPDATE runs SET state = 'succeeded' WHERE id = (SELECT min(id::text)::uuid FROM runs)",
    )
    await run(empty_database, partial(command.upgrade, revision="head"))

    assert await store.claim_due_runs(owner="w", limit=9, shapes=["p:first,second"]) == []
    [lease] = await store.claim_due_runs(owner="w", limit=9, shapes=["p:second,first"])
    assert lease.shape == "p:second,first"


async def test_processes_of_the_release_before_go_on(
    empty_database: PostgresSettings, store: RunStore
) -> None:
    """During a rolling deployment an old API accepts and an old worker says that it is alive."""
    await run(empty_database, partial(command.upgrade, revision="head"))
    await run_sql(empty_database, ADD_KEY, OLD_ACCEPT, OLD_HEARTBEAT, OLD_HEARTBEAT)

    [lease] = await store.claim_due_runs(owner="w", limit=9, shapes=["p:second,first"])

    assert lease.shape is None
    assert lease.remaining_s > 0
    assert await store.start_step(lease, "second") == 1
    assert [beat.process for beat in await store.list_heartbeats()] == ["w1"]
    key = await store.find_key("000000000000")
    assert key is not None
    found = await store.get_run(key.id, lease.run_id)
    assert (found.crashes, found.lapses, found.replays) == (0, 0, 0)


async def test_the_newest_migration_can_be_undone_with_runs_in_the_record(
    empty_database: PostgresSettings, store: RunStore
) -> None:
    """Down and up again loses no run, only what the older release does not know."""
    await run(empty_database, partial(command.upgrade, revision="head"))
    await run_sql(empty_database, ADD_KEY, OLD_ACCEPT)
    await run(empty_database, partial(command.downgrade, revision="0001"))
    await run_sql(empty_database, OLD_ACCEPT)
    await run(empty_database, partial(command.upgrade, revision="head"))

    leases = await store.claim_due_runs(owner="w", limit=9, shapes=["p:second,first"])

    assert [lease.shape for lease in leases] == ["p:second,first"] * 2


async def test_two_at_once_migrate_once(empty_database: PostgresSettings) -> None:
    """Two deployments that start together do not get in each other's way."""
    up = partial(command.upgrade, revision="head")

    results = await asyncio.gather(*(run(empty_database, up) for _ in range(3)))

    assert sorted(results) == [("0005", "0005"), ("0005", "0005"), ("empty", "0005")]
