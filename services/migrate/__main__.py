"""Brings the database up to date and stores the first API key: `python -m services.migrate`."""

import argparse
import asyncio
import sys
from functools import partial

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from config.api import ApiSettings
from config.loading import load
from config.postgres import PostgresSettings
from services.core.clock import monotonic_s
from services.core.db import Database, Statement
from services.core.errors import PenstockError, StoreUnavailableError
from services.core.pool import Pool
from services.core.runs.key_records import KeyPrefixTakenError, KeyRecords
from services.core.runs.keys import parse_key
from services.migrate.engine import create_engine
from services.migrate.migrations import migrate

WAIT_S = 60.0
RETRY_S = 0.5
# Rewriting or indexing a large table takes longer than any statement of a request may.
MIGRATION_TIMEOUT_S = 3600.0


class MalformedKeyError(PenstockError):
    """API_INITIAL_KEY has not the form of a key: psk_<12 hex digits>_<43 characters>."""


class DatabaseRefusedError(PenstockError):
    """PostgreSQL refuses the login; check POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB."""


async def prepare(postgres: PostgresSettings, initial_key: SecretStr | None) -> str:
    """Wait for PostgreSQL, migrate it and store the first key; what was done.

    Raises:
        MalformedKeyError: The key has not the form of a key. Nothing was changed.
        DatabaseRefusedError: User, password or database are wrong.
        StoreUnavailableError: PostgreSQL did not answer within a minute.
        KeyPrefixTakenError: Another key has the prefix of this one.
    """
    parsed = None
    if initial_key is not None:
        parsed = parse_key(initial_key.get_secret_value())
        if parsed is None:
            raise MalformedKeyError
    engine, pool = _engine(postgres), Pool(postgres)
    try:
        await wait_for(pool, timeout_s=WAIT_S)
        before, after = await migrate(engine, partial(command.upgrade, revision="head"))
        done = f"database is at {after}" + ("" if before == after else f" (was {before})")
        if parsed is None:
            return f"{done}; no API_INITIAL_KEY is set"
        prefix, key_hash = parsed
        keys = KeyRecords(Database(pool, timeout_s=postgres.statement_timeout_s))
        key = await keys.add_key(name="initial", prefix=prefix, key_hash=key_hash)
        return f"{done}; API key psk_{prefix}_… is {'revoked' if key.is_revoked else 'stored'}"
    finally:
        await engine.dispose()
        await pool.close()


async def wait_for(pool: Pool, *, timeout_s: float) -> None:
    """Wait until PostgreSQL answers."""
    database = Database(pool, timeout_s=RETRY_S * 10)
    give_up_at_s = monotonic_s() + timeout_s
    while True:
        try:
            await database.fetch(Statement("SELECT 1"))
        except StoreUnavailableError as error:
            if _is_refusal(error.__cause__):
                raise DatabaseRefusedError from error
            if monotonic_s() > give_up_at_s:
                raise
            await asyncio.sleep(RETRY_S)
        else:
            return


async def run_command(postgres: PostgresSettings, arguments: argparse.Namespace) -> str:
    """Run one of Alembic's own commands, for developers; what was done."""
    engine = _engine(postgres)
    try:
        before, after = await migrate(engine, partial(_run_alembic, arguments=arguments))
    finally:
        await engine.dispose()
    return f"{before} -> {after}"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    parsed = _parser().parse_args(arguments)
    postgres = load(PostgresSettings)
    try:
        if parsed.command is None:
            said = asyncio.run(prepare(postgres, load(ApiSettings).initial_key))
        else:
            said = asyncio.run(run_command(postgres, parsed))
    except (PenstockError, KeyPrefixTakenError, CommandError) as error:
        sys.stderr.write(f"migrate: {error}\n")
        return 1
    sys.stdout.write(f"migrate: {said}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m services.migrate", description=__doc__)
    commands = parser.add_subparsers(dest="command", title="for developers")
    for name in ("upgrade", "downgrade"):
        commands.add_parser(name, help=f"{name} to a revision").add_argument("revision")
    commands.add_parser("check", help="fail if the models and the migrations differ")
    revision = commands.add_parser("revision", help="write a new migration")
    revision.add_argument("-m", "--message", required=True)
    revision.add_argument("--autogenerate", action="store_true")
    return parser


def _run_alembic(config: Config, *, arguments: argparse.Namespace) -> None:
    """Run the Alembic command of that name."""
    options = {name: value for name, value in vars(arguments).items() if name != "command"}
    getattr(command, arguments.command)(config, **options)


def _engine(postgres: PostgresSettings) -> AsyncEngine:
    """An engine whose statements may take long."""
    return create_engine(postgres.model_copy(update={"statement_timeout_s": MIGRATION_TIMEOUT_S}))


def _is_refusal(error: BaseException | None) -> bool:
    """Whether PostgreSQL answered, and said no."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    return sqlstate[:2] in {"28", "3D"}


if __name__ == "__main__":
    sys.exit(main())
