"""Alembic without a configuration file, and a lock so that only one process migrates."""

from collections.abc import Callable
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

HERE = Path(__file__).parent
# Any number will do, as long as nobody else takes it as an advisory lock in this database.
LOCK_ID = 7_366_747


async def migrate(engine: AsyncEngine, command: Callable[[Config], None]) -> tuple[str, str]:
    """Run an Alembic command in one transaction; the revisions before and after.

    The lock makes a second caller wait until the first has committed. It is released with the
    transaction, even if the process dies.

    Args:
        engine: One whose statements may take long.
        command: Gets the configuration with the connection in it.
    """
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
        before = await connection.run_sync(_revision)
        await connection.run_sync(lambda sync: command(alembic_config(sync)))
        return before, await connection.run_sync(_revision)


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for a connection."""
    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.set_main_option("file_template", "r%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str:
    """The revision that the database is at."""
    return MigrationContext.configure(connection).get_current_revision() or "empty"
