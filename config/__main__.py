"""Prints .env.example; with --write, brings that file and the tables of docs/configuration.md up to date."""

import sys
from pathlib import Path

from config.reference import to_env_example, with_tables

ENV_EXAMPLE = Path(".env.example")
DOCUMENT = Path("docs/configuration.md")

if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        ENV_EXAMPLE.write_text(to_env_example())
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
    else:
        sys.stdout.write(to_env_example())
