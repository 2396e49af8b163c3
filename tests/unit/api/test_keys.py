"""The command line for keys."""

from decimal import Decimal

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


async def test_a_key_is_made_with_limits(
    store: InMemoryRunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its runs may cost a day, and how many are executed at once; `list` shows both."""
    limits = ("--daily-budget-usd", "2.50", "--max-running", "7")
    await run(store, "create", "--name", "Elena", *limits)
    capsys.readouterr()
    await run(store, "list")

    [(prefix, key)] = store.keys.items()
    assert (key.daily_budget_usd, key.max_running) == (Decimal("2.5"), 7)
    expected = f"{prefix}  active   Elena  2.50 USD a day  7 at once\n"
    assert capsys.readouterr().out == expected


async def test_a_limit_changes_without_the_other(
    store: InMemoryRunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that is not given changes nothing; `none` takes a limit away."""
    await run(store, "create", "--name", "Elena", "--daily-budget-usd", "2.5")
    [prefix] = store.keys

    await run(store, "limit", prefix, "--max-running", "3")
    both = store.keys[prefix]
    await run(store, "limit", prefix, "--daily-budget-usd", "none")
    one = store.keys[prefix]

    assert (both.daily_budget_usd, both.max_running) == (Decimal("2.5"), 3)
    assert (one.daily_budget_usd, one.max_running) == (None, 3)
    assert capsys.readouterr().out.endswith(f"{prefix}  active   Elena  3 at once\n")


async def test_nobody_limits_a_key_that_is_not_there(store: InMemoryRunStore) -> None:
    """The status tells a script."""
    assert await run(store, "limit", "0" * 12, "--max-running", "3") == NO_SUCH_KEY


@pytest.mark.parametrize(
    "limit",
    [
        ("--daily-budget-usd", "-1"),
        ("--daily-budget-usd", "NaN"),
        ("--daily-budget-usd", "much"),
        ("--max-running", "0"),
        ("--max-running", "2.5"),
    ],
)
def test_a_limit_is_a_number(limit: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is no limit is refused before anything is stored."""
    with pytest.raises(SystemExit):
        parse_arguments(["create", "--name", "Elena", *limit])

    assert limit[0] in capsys.readouterr().err
