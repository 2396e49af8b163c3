"""compose.yaml and compose.override.yaml as local mode reads them: merged and interpolated as Compose does it.

Only the part of Compose's language that these two files use is understood; a test holds the result against
`docker compose config`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local.errors import LocalError

FILES = ("compose.yaml", "compose.override.yaml")
CODE_FOLDERS = ("config", "services")
REPLACED_KEYS = frozenset({"command", "test"})
"""Lists that an override replaces; other lists grow."""
VARIABLE_PATTERN = re.compile(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<word>[^${}]*))?\}")
"""A variable without another one inside."""
DOLLAR = "\0"
"""Stands for a dollar sign that starts no variable."""
DURATION_PATTERN = re.compile(r"(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """How to ask a service whether it works."""

    test: list[str]
    """Compose's form: CMD or CMD-SHELL, then the command."""
    timeout_s: float
    start_interval_s: float
    patience_s: float
    """Seconds from the start after which it counts as failed: the start period, then every retry."""


@dataclass(frozen=True, slots=True)
class Port:
    """A container's port and where the host has it."""

    host: str
    published: int
    target: int


@dataclass(frozen=True, slots=True)
class Service:
    """What local mode needs to know of a Compose service."""

    name: str
    command: list[str]
    environment: dict[str, str]
    env_files: list[str]
    secrets: list[str]
    ports: list[Port]
    needs: dict[str, str]
    """Service to wait for, and its condition."""
    healthcheck: Healthcheck | None
    does_restart: bool
    stop_signal: str
    stop_grace_s: float
    log_max_size: str
    log_max_files: int
    watched: list[str] = field(default_factory=list)
    """Paths whose change restarts the service (`make watch`)."""


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$` resolved in every string.

    Raises:
        LocalError: A variable that must be set is not; the message is the file's.
    """
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if isinstance(value, str):
        text = value.replace("$$", DOLLAR)
        while VARIABLE_PATTERN.search(text):  # from the inside out: a default may hold a variable
            text = VARIABLE_PATTERN.sub(lambda match: _resolve(match, variables), text)
        return text.replace(DOLLAR, "$")
    return value


def _resolve(match: re.Match[str], variables: Mapping[str, str]) -> str:
    found = variables.get(match["name"], "").replace("$", DOLLAR)
    if found or match["operator"] is None:
        return found
    if match["operator"] == ":?":
        raise LocalError(f"{match['name']} is not set. {match['word']}")
    return match["word"]


def merge(low: Any, high: Any, *, key: str = "") -> Any:
    """Compose's merge: mappings by key, lists appended, what must not be mixed and all else replaced."""
    if isinstance(low, dict) and isinstance(high, dict):
        keys = {**low, **high}
        return {
            k: merge(low[k], high[k], key=k) if k in low and k in high else keys[k] for k in keys
        }
    if isinstance(low, list) and isinstance(high, list) and key not in REPLACED_KEYS:
        return [*low, *(item for item in high if item not in low)]
    return high


def read_services(root: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """The services of the checkout by name."""
    merged: dict[str, Any] = {}
    for name in FILES:
        merged = merge(merged, interpolate(yaml.safe_load((root / name).read_text()), variables))
    return {name: _service(name, values) for name, values in merged["services"].items()}


def _service(name: str, values: dict[str, Any]) -> Service:
    options = values["logging"]["options"]
    return Service(
        name=name,
        command=values["command"],
        environment={key: str(value) for key, value in values.get("environment", {}).items()},
        env_files=values.get("env_file", []),
        secrets=values.get("secrets", []),
        ports=[_port(text) for text in values.get("ports", [])],
        needs={need: value["condition"] for need, value in values.get("depends_on", {}).items()},
        healthcheck=_healthcheck(values["healthcheck"]) if "healthcheck" in values else None,
        does_restart=values["restart"] != "no",
        stop_signal=values.get("stop_signal", "SIGTERM"),
        stop_grace_s=_seconds(values["stop_grace_period"]),
        log_max_size=options["max-size"],
        log_max_files=int(options["max-file"]),
        watched=[rule["path"] for rule in _watch_rules(values) if rule["path"] in CODE_FOLDERS],
    )


def _watch_rules(values: dict[str, Any]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = values.get("develop", {}).get("watch", [])
    return rules


def _port(text: str) -> Port:
    host, published, target = text.split(":")
    return Port(host=host, published=int(published), target=int(target))


def _healthcheck(values: dict[str, Any]) -> Healthcheck:
    return Healthcheck(
        test=values["test"],
        timeout_s=_seconds(values["timeout"]),
        start_interval_s=_seconds(values["start_interval"]),
        patience_s=_seconds(values["start_period"])
        + values["retries"] * _seconds(values["interval"]),
    )


def _seconds(text: str) -> float:
    match = DURATION_PATTERN.fullmatch(text)
    if not match or not text:
        raise LocalError(f"local mode reads durations such as 90s and 1m30s, not {text!r}")
    minutes, seconds = match.groups(default="0")
    return float(int(minutes) * 60 + int(seconds))
