"""Compose services as local processes: the same command, environment and health check with this machine's addresses.

A container has its own network name, ports, /tmp and secrets. A local process shares the machine, so exactly those
are rewritten, by rule and not by service: what is started cannot drift from compose.yaml.
"""

import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from local import embedded
from local.compose_model import Service
from local.env_file import read_env_file

INHERITED_PATTERN = re.compile(
    r"HOME|LANG|LC_.*|TZ|USER|LOGNAME|SSL_CERT_(FILE|DIR)|(?i:(http|https|no|all)_proxy)"
)
"""Variables that pass from the shell to the services; a container would get none, but these speak of the machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a local stack lives."""

    root: Path
    """The checkout."""
    run_dir: Path
    """Logs, data, sockets and pid files."""
    secrets_dir: Path
    """What `make secrets` derived."""

    def scratch(self, service: str) -> Path:
        """What /tmp is to a container."""
        return self.run_dir / "tmp" / service

    def secrets_of(self, service: str) -> Path:
        """What /run/secrets is to a container."""
        return self.run_dir / "secrets" / service

    def data_of(self, service: str) -> Path:
        """What a named volume is to a container."""
        return self.run_dir / "data" / service


@dataclass(frozen=True, slots=True)
class Program:
    """A service ready to be started here."""

    service: Service
    command: list[str]
    environment: dict[str, str]
    probe: list[str] | None
    """Command that exits 0 while the service works."""

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    def fingerprint(self, revision: str) -> str:
        """Changes when the program would start differently; `revision` stands for code and secrets."""
        text = json.dumps([asdict(self), revision], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def make_programs(
    services: Mapping[str, Service], place: Place, *, shell: Mapping[str, str]
) -> dict[str, Program]:
    """Every service of the Compose files as a local program."""
    return {
        name: _program(service, services, place, shell=shell) for name, service in services.items()
    }


def _program(
    service: Service, services: Mapping[str, Service], place: Place, *, shell: Mapping[str, str]
) -> Program:
    def here(text: str) -> str:
        return localize(text, service=service, services=services, place=place)

    addressed = _addresses(service.environment, services)
    environment = {
        **_machine_environment(service, place, shell),
        **_settings(service, place),
        **{name: here(value) for name, value in addressed.items()},
    }
    command = [here(word) for word in service.command]
    probe = (
        [here(word) for word in _argv(service.healthcheck.test)] if service.healthcheck else None
    )
    if service.name in embedded.SERVERS:
        server = embedded.SERVERS[service.name](service, place)
        return Program(
            service, server.command, {**environment, **server.environment}, server.probe or probe
        )
    return Program(service, command, environment, probe)


def localize(text: str, *, service: Service, services: Mapping[str, Service], place: Place) -> str:
    """A text from a service's command, environment or health check, true on this machine."""
    for other in services.values():
        for port in other.ports:
            text = re.sub(rf"\b{other.name}:{port.target}\b", f"127.0.0.1:{port.published}", text)
    for port in service.ports:
        text = re.sub(rf"(?<!\d){port.target}(?!\d)", str(port.published), text)
        text = text.replace("0.0.0.0", port.host)  # noqa: S104 - replaced by what is published
    folders = {
        "/run/secrets/": place.secrets_of(service.name),
        "/tmp/": place.scratch(service.name),  # noqa: S108 - the container's own
    }
    return re.sub(r"(?<![\w/])(/run/secrets/|/tmp/)", lambda match: f"{folders[match[1]]}/", text)


def _addresses(environment: Mapping[str, str], services: Mapping[str, Service]) -> dict[str, str]:
    """The environment with each pair X_HOST, X_PORT that names a service pointing to this machine."""
    local = dict(environment)
    for name, value in environment.items():
        if name.endswith("_HOST") and value in services and services[value].ports:
            local[name] = "127.0.0.1"
            local[f"{name.removesuffix('HOST')}PORT"] = str(services[value].ports[0].published)
    return local


def _settings(service: Service, place: Place) -> dict[str, str]:
    settings: dict[str, str] = {}
    for file in service.env_files:
        settings |= read_env_file(place.secrets_dir / Path(file).name)
    return settings


def _machine_environment(
    service: Service, place: Place, shell: Mapping[str, str]
) -> dict[str, str]:
    inherited = {name: value for name, value in shell.items() if INHERITED_PATTERN.fullmatch(name)}
    return inherited | {
        "HOSTNAME": socket.gethostname(),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), shell.get("PATH", os.defpath))),
        "PYTHONPATH": str(place.root),
        "PYTHONUNBUFFERED": "1",
        "SECRETS_DIR": str(place.secrets_of(service.name)),
        "TMPDIR": str(place.scratch(service.name)),
    }


def _argv(test: list[str]) -> list[str]:
    kind, *words = test
    return ["sh", "-c", *words] if kind == "CMD-SHELL" else words
