"""API keys from the command line: `python -m services.api.keys create --name NAME | revoke PREFIX | list`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from config.loading import load
from config.postgres import PostgresSettings
from services.core.db import Database, create_engine
from services.core.errors import StoreUnavailableError
from services.core.runs.key_records import KeyRecords
from services.core.runs.keys import generate_key, parse_key

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


async def run_command(keys: KeyRecords, arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    match arguments.command:
        case "create":
            _print(await create_key(keys, name=arguments.name))
        case "revoke":
            if not await keys.revoke_key(arguments.prefix):
                print(f"There is no active key {arguments.prefix}.", file=sys.stderr)  # noqa: T201 - it answers a person
                return NO_SUCH_KEY
            _print(f"Revoked {arguments.prefix}.")
        case _:
            for key in await keys.list_keys():
                _print(f"{key.prefix}  {'revoked' if key.is_revoked else 'active '}  {key.name}")
    return 0


def _print(line: str) -> None:
    print(line)  # noqa: T201 - its output is what it is for


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m services.api.keys", description="API keys")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and print it, once")
    create.add_argument("--name", required=True, help="who will use it")
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("prefix", help="the 12 hex digits after psk_")
    commands.add_parser("list", help="show prefixes, states and names")
    return parser.parse_args(argv)


async def main(argv: Sequence[str]) -> int:
    """Run one command on the configured record; the exit status."""
    arguments = parse_arguments(argv)
    settings = load(PostgresSettings)
    database = Database(create_engine(settings), timeout_s=settings.statement_timeout_s)
    try:
        return await run_command(KeyRecords(database), arguments)
    except StoreUnavailableError as error:
        print(error, file=sys.stderr)  # noqa: T201 - it answers a person
        return NO_RECORD
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
