"""The command line for keys."""

import pytest

from services.api.keys import NO_SUCH_KEY, parse_arguments, run_command
from services.core.runs.keys import parse_key
from tests.fakes.run_store import InMemoryRunStore


async def run(store: InMemoryRunStore, *argv: str) -> int:
    """Run a command on a record."""
    return await run_command(store, parse_arguments(argv))  # type: ignore[arg-type]  # has what is needed


async def test_a_created_key_is_printed_once_and_stored_hashed(
    store: InMemoryRunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed opens the door, and only its hash is kept."""
    status = await run(store, "create", "--name", "Elena")

    printed = capsys.readouterr().out.strip()
    parsed = parse_key(printed)
    assert parsed is not None
    stored = store.keys[parsed[0]]
    assert status == 0
    assert (stored.name, stored.key_hash) == ("Elena", parsed[1])
    assert printed not in repr(store.keys)


async def test_a_revoked_key_is_shown_as_such(
    store: InMemoryRunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a second revocation tells that there was nothing to revoke."""
    await run(store, "create", "--name", "Elena")
    prefix = next(iter(store.keys))

    statuses = [await run(store, "revoke", prefix) for _ in range(2)]
    capsys.readouterr()
    await run(store, "list")

    assert statuses == [0, NO_SUCH_KEY]
    assert capsys.readouterr().out == f"{prefix}  revoked  Elena\n"
