"""compose.yaml and the code agree: a service for each container folder, limits that fit the settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.celery import CelerySettings
from services.core.queue.contracts import QueueName

ROOT = Path(__file__).parents[2]
NOT_CONTAINERS = {"core", "pipelines"}
DEVELOPMENT_ONLY = {"simulator"}
THIRD_PARTY = {"postgres", "redis"}
VARIANTS = {"worker-isolated": "worker"}
"""Services that run another's code in another way."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """What is deployed."""
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def override() -> dict[str, Any]:
    """What development adds."""
    return dict(yaml.safe_load((ROOT / "compose.override.yaml").read_text()))


def _container_folders() -> set[str]:
    return {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")} - NOT_CONTAINERS


def _command(service: dict[str, Any]) -> str:
    command = service["command"]
    return command if isinstance(command, str) else " ".join(command)


def test_every_container_folder_is_a_service(compose, override) -> None:
    """A folder below services/ is a container of the same name, and every container of ours is a folder."""
    deployed = set(compose["services"]) - THIRD_PARTY - set(VARIANTS)

    assert _container_folders() == deployed | DEVELOPMENT_ONLY
    assert set(override["services"]) >= DEVELOPMENT_ONLY


def test_every_service_runs_its_own_folder(compose, override) -> None:
    """The command of a container is in the folder of its name."""
    for name in _container_folders():
        found = compose["services"].get(name) or override["services"][name]
        assert f"services.{name}" in _command(found) or f"services/{name}" in _command(found), name


def test_every_queue_has_a_worker(compose) -> None:
    """No hint waits on a queue that nobody reads, and no worker reads a queue that does not exist."""
    commands = " ".join(
        _command(service)
        for name, service in compose["services"].items()
        if name.startswith("worker")
    )
    read = {
        queue
        for argument in commands.replace("-Q ", "--queues=").split()
        if argument.startswith("--queues=")
        for queue in argument.removeprefix("--queues=").split(",")
    }

    assert read == {str(queue) for queue in QueueName}


def test_workers_have_time_to_stop(compose) -> None:
    """A stopping worker hands back its runs before Compose kills it."""
    grace_s = CelerySettings.model_fields["shutdown_grace_s"].default
    for name in ("worker", "worker-isolated"):
        stop_s = int(compose["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace_s + 3 <= stop_s, name
