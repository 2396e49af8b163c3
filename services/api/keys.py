"""API keys from the command line.

python -m services.api.keys create --name NAME [LIMITS] | limit PREFIX [LIMITS] | revoke PREFIX | list
LIMITS: --daily-budget-usd USD|none --max-running N|none
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from config.loading import load
from config.postgres import PostgresSettings
from services.core.db import Database
from services.core.errors import StoreUnavailableError
from services.core.pool import Pool
from services.core.runs.key_records import KeyRecords
from services.core.runs.keys import generate_key, parse_key
from services.core.runs.models import ApiKey

NO_LIMIT = "none"
NO_SUCH_KEY = 1
NO_RECORD = 2


async def create_key(keys: KeyRecords, *, name: str) -> str:
    """Store a new key's hash.

    Args:
        keys: Where keys are.
        name: Who will use it; shown by `list`.

    Returns:
        The key. It is stored nowhere: whoever loses it needs a new one.
    """
    text = generate_key()
    parsed = parse_key(text)
    assert parsed is not None  # noqa: S101 - it was just made in that form
    prefix, key_hash = parsed
    await keys.add_key(name=name, prefix=prefix, key_hash=key_hash)
    return text


async def limit_key(keys: KeyRecords, prefix: str, arguments: argparse.Namespace) -> ApiKey | None:
    """Change the limits that the command line names; the key as it is now, or None."""
    key = await keys.find_key(prefix)
    if key is None:
        return None
    given = vars(arguments)
    return await keys.set_key_limits(
        prefix,
        daily_budget_usd=given.get("daily_budget_usd", key.daily_budget_usd),
        max_running=given.get("max_running", key.max_running),
    )


async def run_command(keys: KeyRecords, arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    match arguments.command:
        case "create":
            text = await create_key(keys, name=arguments.name)
            await limit_key(keys, text.split("_")[1], arguments)
            _print(text)
        case "limit":
            key = await limit_key(keys, arguments.prefix, arguments)
            if key is None:
                return _refuse(f"There is no key {arguments.prefix}.")
            _print(_line(key))
        case "revoke":
            if not await keys.revoke_key(arguments.prefix):
                return _refuse(f"There is no active key {arguments.prefix}.")
            _print(f"Revoked {arguments.prefix}.")
        case _:
            for key in await keys.list_keys():
                _print(_line(key))
    return 0


def _line(key: ApiKey) -> str:
    """A key as `list` shows it."""
    words = [key.prefix, "revoked" if key.is_revoked else "active ", key.name]
    if key.daily_budget_usd is not None:
        words.append(f"{key.daily_budget_usd:f} USD a day")
    if key.max_running is not None:
        words.append(f"{key.max_running} at once")
    return "  ".join(words)


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - it answers a person
    return NO_SUCH_KEY


def _print(line: str) -> None:
    print(line)  # noqa: T201 - its output is what it is for


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m services.api.keys", description="API keys")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and print it, once")
    create.add_argument("--name", required=True, help="who will use it")
    limit = commands.add_parser("limit", help="change what a key's runs may cost, and how many run")
    limit.add_argument("prefix", help="the 12 hex digits after psk_")
    for command in (create, limit):
        _add_limits(command)
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("prefix", help="the 12 hex digits after psk_")
    commands.add_parser("list", help="show prefixes, states and names")
    return parser.parse_args(argv)


def _add_limits(command: argparse.ArgumentParser) -> None:
    """Options that are absent from the result unless they are given: they change nothing then."""
    command.add_argument(
        "--daily-budget-usd",
        type=_usd,
        default=argparse.SUPPRESS,
        metavar="USD|none",
        help="what its runs may cost per day (UTC)",
    )
    command.add_argument(
        "--max-running",
        type=_count,
        default=argparse.SUPPRESS,
        metavar="N|none",
        help="how many of its runs are executed at once",
    )


def _usd(text: str) -> Decimal | None:
    """An amount, or None for no limit.

    Raises:
        ValueError: It is neither.
    """
    if text == NO_LIMIT:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise ValueError from error
    if not amount.is_finite() or amount < 0:
        raise ValueError
    return amount


def _count(text: str) -> int | None:
    """A number from 1, or None for no limit.

    Raises:
        ValueError: It is neither.
    """
    if text == NO_LIMIT:
        return None
    number = int(text)
    if number < 1:
        raise ValueError
    return number


async def main(argv: Sequence[str]) -> int:
    """Run one command on the configured record; the exit status."""
    arguments = parse_arguments(argv)
    settings = load(PostgresSettings)
    database = Database(Pool(settings), timeout_s=settings.statement_timeout_s)
    try:
        return await run_command(KeyRecords(database), arguments)
    except StoreUnavailableError as error:
        print(error, file=sys.stderr)  # noqa: T201 - it answers a person
        return NO_RECORD
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
