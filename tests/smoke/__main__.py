"""Checks the Penstock that runs on this machine, in containers or as local processes; reads .env as they do."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from config.sources import environment_variables
from tests.smoke.checks import create_checks
from tests.smoke.report import run_checks

PUBLISHED = {"REDIS_PORT": "REDIS_PUBLISH_PORT", "POSTGRES_PORT": "POSTGRES_PUBLISH_PORT"}
"""Ports as seen from this machine, by the variable that a process inside would use."""


def read_variables(env_file: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The .env's variables with this process's own on top, ports as seen from this machine."""
    in_file = {name: value for name, value in dotenv_values(env_file).items() if value}
    variables = {**in_file, **environ}
    for port, published in PUBLISHED.items():
        if published in variables and port not in environ:
            variables[port] = variables[published]
    return variables


def main() -> int:
    """Run every check; the exit status."""
    variables = read_variables(Path(".env"), os.environ)  # noqa: TID251 - this is a process's start
    with environment_variables(**variables):
        return run_checks(create_checks())


if __name__ == "__main__":
    sys.exit(main())
