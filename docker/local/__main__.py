"""The host's commands behind the Makefile: `python -m local secrets | up | down | ps | logs | …`."""

import argparse
import os
import sys
from pathlib import Path

from local import commands
from local.errors import LocalError

ROOT = Path(__file__).resolve().parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="local", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="what runs: the checkout, or a copy"
    )
    parser.add_argument("--env-file", type=Path, default=Path(".env"))
    parser.add_argument("--run-dir", type=Path, default=Path(".run"))
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("secrets", "key", "up", "watch"):
        verbs.add_parser(verb)
    for verb in ("ps", "logs"):
        verbs.add_parser(verb).add_argument("services", nargs="*")
    verbs.add_parser("kill").add_argument("service")
    verbs.add_parser("down").add_argument("--volumes", action="store_true")
    inside = verbs.add_parser("run")
    inside.add_argument("service")
    inside.add_argument("command", nargs=argparse.REMAINDER)
    verbs.add_parser("welcome").add_argument("--mode", choices=("compose", "local"), required=True)
    trial = verbs.add_parser("trial")
    trial.add_argument("--mode", choices=("compose", "local"), required=True)
    trial.add_argument("--name", help="trials of different names can run side by side")
    trial.add_argument("--stacks", type=int, default=1, help="so many, side by side")
    trial.add_argument("--tree", type=Path, help="run this copy of the code (tests.chaos.tree)")
    trial.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a line for its .env"
    )
    trial.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def main() -> int:
    """Run one command; errors that the user can mend are one line."""
    shell = dict(os.environ)  # noqa: TID251 - the host's one door to the environment
    options = _parser().parse_args(namespace=argparse.Namespace(shell=shell))
    try:
        return commands.run(options)
    except LocalError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
