"""`.env` and what is derived from it. Only the standard library: this runs before any package is installed."""

import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from local.errors import LocalError

SECRET_NAMES = (
    "ANTHROPIC_API_KEY",
    "API_INITIAL_KEY",
    "FLOWER_PASSWORD",
    "LOGFIRE_TOKEN",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
)
"""Reach a container as files, never as its environment."""
OPTIONAL_SECRET_NAMES = ("ANTHROPIC_API_KEY", "LOGFIRE_TOKEN")
HOST_NAME_PATTERN = re.compile(r"COMPOSE_|DOCKER_|PENSTOCK_IMAGE$|SECRETS_DIR$|.*_PUBLISH_")
"""Variables that say something about the host, not about a service."""
DEFAULT_PORTS = {
    "API_PORT": 8000,
    "FLOWER_PORT": 5555,
    "POSTGRES_PUBLISH_PORT": 5432,
    "REDIS_PUBLISH_PORT": 6379,
    "SIMULATOR_PUBLISH_PORT": 8080,
}
TEMPLATE = """\
# Written by `make secrets` on first use and never overwritten: it is yours to edit. `make up` applies a change.
# .env.example has every setting with its default.

PENSTOCK_ENV={env}
SECRETS_DIR={secrets_dir}

# Generated for this checkout.
REDIS_PASSWORD={redis_password}
POSTGRES_PASSWORD={postgres_password}
FLOWER_PASSWORD={flower_password}
API_INITIAL_KEY={api_initial_key}

# Claude. While this is empty the simulator answers in development, and results say so.
ANTHROPIC_API_KEY=
# Telemetry. While this is empty nothing leaves this machine.
LOGFIRE_TOKEN=

# Ports on this machine, all on 127.0.0.1. A default that was taken got the next free one.
{ports}
"""
LINE_PATTERN = re.compile(
    r"""^\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
    (?:'(?P<single>[^']*)'|"(?P<double>[^"\\$]*)"|(?P<plain>[^\s'"$#][^$]*?)?)
    \s*(?:(?<=\s)\#.*)?$""",
    re.VERBOSE,
)


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a `.env` file, as Compose reads them.

    Raises:
        LocalError: A line that Compose might read differently.
    """
    variables: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE_PATTERN.match(line)
        if match is None:
            message = f"{path}, line {number}: write NAME=value, and put a value with $, quotes or # in single quotes"
            raise LocalError(message)
        variables[match["name"]] = match["single"] or match["double"] or match["plain"] or ""
    return variables


def generate_api_key() -> str:
    """A key in the form that services.core.runs.keys reads: psk_<12 hex>_<32 bytes as URL-safe base64>."""
    return f"psk_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def is_port_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Nothing listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port_from(port: int, *, taken: Iterable[int] = ()) -> int:
    """The first free port at or above the given one."""
    candidates = (number for number in range(port, 65536) if number not in set(taken))
    return next(number for number in candidates if is_port_free(number))


def choose_ports(*, lowest: Mapping[str, int] = DEFAULT_PORTS) -> dict[str, int]:
    """A free port for each name, the wanted one where it is free."""
    ports: dict[str, int] = {}
    for name, wanted in lowest.items():
        ports[name] = free_port_from(wanted, taken=ports.values())
    return ports


def write_env_file(
    path: Path,
    *,
    env: str = "development",
    secrets_dir: str = "./.secrets",
    ports: Mapping[str, int],
) -> bool:
    """Write a `.env` with fresh secrets unless there is one. True if it was written."""
    text = TEMPLATE.format(
        env=env,
        secrets_dir=secrets_dir,
        redis_password=secrets.token_urlsafe(32),
        postgres_password=secrets.token_urlsafe(32),
        flower_password=secrets.token_urlsafe(16),
        api_initial_key=generate_api_key(),
        ports="\n".join(f"{name}={port}" for name, port in ports.items()),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return True


def derive_files(variables: Mapping[str, str], folder: Path) -> None:
    """Write one file per secret, and the settings that are none, for the containers to read.

    The folder is closed to other users of the host. The files are readable by all, because a container's user
    is nobody here; Docker mounts them one by one, so the closed folder is not in its way.

    Raises:
        LocalError: A secret that must be set is not.
    """
    missing = [
        name
        for name in SECRET_NAMES
        if not variables.get(name) and name not in OPTIONAL_SECRET_NAMES
    ]
    if missing:
        message = f"set {' and '.join(missing)} in .env (or move .env away: `make secrets` then writes a new one)"
        raise LocalError(message)
    settings = {
        name: value
        for name, value in variables.items()
        if value and name not in SECRET_NAMES and not HOST_NAME_PATTERN.match(name)
    }
    contents = {name.lower(): variables.get(name, "") for name in SECRET_NAMES}
    revision = hashlib.sha256(repr(contents).encode()).hexdigest()[:12]
    contents["revision.env"] = f"PENSTOCK_SECRETS_REVISION={revision}\n"
    contents["settings.env"] = "".join(
        f"{name}={_quote(value)}\n" for name, value in sorted(settings.items())
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, content in contents.items():
        _write_if_changed(folder / name, content)


def _quote(value: str) -> str:
    mark = '"' if "'" in value else "'"
    if mark in value:
        message = f"{value}: a value in .env cannot have both kinds of quotes"
        raise LocalError(message)
    return f"{mark}{value}{mark}"


def _write_if_changed(path: Path, content: str) -> None:
    if path.is_dir():  # Docker makes a folder where a file to mount was missing.
        shutil.rmtree(path)
    if path.is_file() and path.read_text() == content:
        return
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.write_text(content)
    draft.chmod(0o444)
    draft.replace(path)
