"""What each verb of `python -m local` does. Compose mode runs this without any package installed."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from local.env_file import choose_ports, derive_files, read_env_file, write_env_file
from local.errors import LocalError
from local.welcome import compose_welcome

if TYPE_CHECKING:
    from local.programs import Place
    from local.stack import LocalStack


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(options: argparse.Namespace) -> int:
    """Carry out one command; the exit status."""
    return COMMANDS[options.verb](options) or 0


def _variables(options: argparse.Namespace) -> dict[str, str]:
    """What Compose would interpolate with: the shell wins over `.env`."""
    return {**read_env_file(options.env_file), **options.shell}


def _secrets(options: argparse.Namespace) -> None:
    if write_env_file(options.env_file, ports=choose_ports()):
        say(f"Wrote {options.env_file} with generated secrets.")
    variables = read_env_file(options.env_file)
    if not variables.get("SECRETS_DIR"):
        raise LocalError(
            f"add SECRETS_DIR=./.secrets to {options.env_file}: Compose reads it there"
        )
    derive_files(variables, options.root / variables["SECRETS_DIR"])


def _key(options: argparse.Namespace) -> None:
    say(_variables(options)["API_INITIAL_KEY"])


def _welcome(options: argparse.Namespace) -> None:
    say(compose_welcome(_variables(options), mode=options.mode))


def _place(options: argparse.Namespace, variables: Mapping[str, str]) -> "Place":
    from local.programs import Place  # noqa: PLC0415 - needs packages

    return Place(
        root=options.root.absolute(),
        run_dir=options.run_dir.absolute(),
        secrets_dir=options.root / variables["SECRETS_DIR"],
    )


def _stack(options: argparse.Namespace) -> "LocalStack":
    from local.compose_model import read_services  # noqa: PLC0415 - needs packages
    from local.programs import make_programs  # noqa: PLC0415 - needs packages
    from local.stack import LocalStack  # noqa: PLC0415 - needs packages

    variables = _variables(options)
    place = _place(options, variables)
    programs = make_programs(read_services(options.root, variables), place, shell=options.shell)
    return LocalStack(programs, place, say=say)


def _up(options: argparse.Namespace) -> None:
    _stack(options).up()


def _down(options: argparse.Namespace) -> None:
    _stack(options).down(with_data=options.volumes)


def _ps(options: argparse.Namespace) -> None:
    for name, state, health in _stack(options).describe(options.services):
        say(f"{name:<16} {state:<40} {health}")


def _logs(options: argparse.Namespace) -> None:
    logs = options.run_dir / "logs"
    files = [str(logs / f"{name}.log") for name in options.services] or sorted(
        map(str, logs.glob("*.log"))
    )
    os.execvp("tail", ["tail", "-n", "100", "-F", *files])  # noqa: S606, S607 - becomes tail


def _kill(options: argparse.Namespace) -> None:
    _stack(options).kill(options.service)


def _run(options: argparse.Namespace) -> int:
    return _stack(options).run(options.service, options.command)


def _watch(options: argparse.Namespace) -> None:
    from local.watch import watch  # noqa: PLC0415 - needs packages

    watch(_stack(options), say=say)


def _trial(options: argparse.Namespace) -> int:
    from local.trial import Trial, run_trials  # noqa: PLC0415 - needs packages

    tree = options.tree.resolve() if options.tree else None
    name = options.name or (f"{options.mode}-{tree.name}" if tree else options.mode)
    names = [name, *(f"{name}-{number}" for number in range(2, options.stacks + 1))]
    trials = [
        Trial(options.mode, name=name, root=options.root, tree=tree, shell=options.shell)
        for name in names
    ]
    return run_trials(trials, options.command, settings=options.set)


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "secrets": _secrets,
    "key": _key,
    "welcome": _welcome,
    "up": _up,
    "down": _down,
    "ps": _ps,
    "logs": _logs,
    "kill": _kill,
    "run": _run,
    "watch": _watch,
    "trial": _trial,
}
