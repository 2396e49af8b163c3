"""`python -m services.migrate` prepares a database, says so in a line, and can be run again."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.api import NEW_KEY
from config.loading import EX_CONFIG
from config.postgres import PostgresSettings
from services.core.errors import StoreUnavailableError
from services.core.pool import Pool
from services.core.runs.keys import generate_key, parse_key
from services.core.runs.store import RunStore
from services.migrate.__main__ import (
    DatabaseRefusedError,
    MalformedKeyError,
    prepare,
    wait_for,
)
from tests.integration.servers import free_port

REPOSITORY = Path(__file__).parents[3]


def migrate(
    database: PostgresSettings, *arguments: str, key: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the process as a container would."""
    assert database.password is not None
    environment = {
        "POSTGRES_HOST": database.host,
        "POSTGRES_PORT": str(database.port),
        "POSTGRES_DB": database.db,
        "POSTGRES_USER": database.user,
        "POSTGRES_PASSWORD": database.password.get_secret_value(),
        "API_INITIAL_KEY": key,
    }
    return subprocess.run(
        [sys.executable, "-m", "services.migrate", *arguments],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_migrates_stores_the_key_and_can_be_repeated(empty_database: PostgresSettings) -> None:
    """One line says what was done; the key can be found by its prefix and hash; twice is once."""
    key = generate_key()
    parsed = parse_key(key)
    assert parsed is not None
    prefix, key_hash = parsed

    first, second = migrate(empty_database, key=key), migrate(empty_database, key=key)

    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == (
        f"migrate: database is at 0005 (was empty); API key psk_{prefix}_… is stored\n"
    )
    assert second.stdout == f"migrate: database is at 0005; API key psk_{prefix}_… is stored\n"
    stored = asyncio.run(find(empty_database, prefix))
    assert stored == key_hash


async def find(database: PostgresSettings, prefix: str) -> bytes | None:
    """The hash of a stored key."""
    store = RunStore(
        Pool(database), lease_ttl_s=1, max_crashes=1, rehint_after_s=1, max_queued_runs=1
    )
    key = await store.find_key(prefix)
    await store.close()
    return key.key_hash if key else None


def test_a_malformed_key_is_refused_before_anything_is_done(
    empty_database: PostgresSettings,
) -> None:
    """The message names the variable and the remedy, and does not show what was given."""
    done = migrate(empty_database, key="changethis-secret")

    assert done.returncode == EX_CONFIG
    assert done.stdout == ""
    assert done.stderr.startswith("settings: API_INITIAL_KEY is not a key")
    assert NEW_KEY in done.stderr
    assert "changethis-secret" not in done.stderr
    assert migrate(empty_database).stdout.startswith("migrate: database is at 0005 (was empty)")


async def test_prepare_takes_no_malformed_key(empty_database: PostgresSettings) -> None:
    """Nor does it get past those who do not ask the settings."""
    with pytest.raises(MalformedKeyError):
        await prepare(empty_database, SecretStr("changethis-secret"))


def test_another_key_with_the_same_prefix_is_refused(empty_database: PostgresSettings) -> None:
    """A key is never replaced in silence."""
    key = generate_key()
    migrate(empty_database, key=key)

    done = migrate(empty_database, key=key[:-1] + ("A" if key[-1] != "A" else "B"))

    assert (done.returncode, done.stderr) == (
        1,
        "migrate: Another key has the same prefix.\n",
    )


def test_developers_have_alembics_commands(empty_database: PostgresSettings) -> None:
    """Down, up and check need no configuration file; a wrong revision is a line, not a trace."""
    migrate(empty_database)

    down = migrate(empty_database, "downgrade", "base")
    up = migrate(empty_database, "upgrade", "head")
    check = migrate(empty_database, "check")
    wrong = migrate(empty_database, "upgrade", "nowhere")

    assert down.stdout == "migrate: 0005 -> empty\n"
    assert up.stdout == "migrate: empty -> 0005\n"
    assert check.returncode == 0
    assert wrong.returncode == 1
    assert "nowhere" in wrong.stderr
    assert "Traceback" not in wrong.stderr


async def test_a_wrong_password_is_said_at_once(empty_database: PostgresSettings) -> None:
    """What waiting cannot mend is not waited for."""
    wrong = empty_database.model_copy(update={"password": SecretStr("wrong")})
    began_s = time.monotonic()

    with pytest.raises(DatabaseRefusedError):
        await prepare(wrong, None)

    assert time.monotonic() - began_s < 5


async def test_waiting_ends(empty_database: PostgresSettings) -> None:
    """A PostgreSQL that never comes is given up after the time that was set."""
    pool = Pool(empty_database.model_copy(update={"port": free_port()}))
    began_s = time.monotonic()

    with pytest.raises(StoreUnavailableError):
        await wait_for(pool, timeout_s=1)

    await pool.close()
    assert 1 <= time.monotonic() - began_s < 5
