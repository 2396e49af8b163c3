"""Every container is fenced in, says whether it works, and keeps secrets out of its environment."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.celery import CelerySettings

ROOT = Path(__file__).parents[2]
PUBLISHED = {"api", "flower"}
SECRET_WORDS = ("PASSWORD", "TOKEN", "API_KEY", "INITIAL_KEY")


def _services(name: str) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((ROOT / name).read_text())["services"])


DEPLOYED = _services("compose.yaml")
DEVELOPMENT = _services("compose.override.yaml")
WHOLE = DEPLOYED | {"simulator": DEVELOPMENT["simulator"]}
"""Every service as it is described in full, in one file or the other."""

every_service = pytest.mark.parametrize("service", WHOLE.values(), ids=WHOLE.keys())


@every_service
def test_a_service_is_fenced_in(service: dict[str, Any]) -> None:
    """No root, no capabilities, no new privileges, nothing writable but what is named."""
    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    user, group = service["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["tmpfs"]
    assert not {"privileged", "cap_add", "container_name"} & service.keys()


@every_service
def test_a_service_has_bounds(service: dict[str, Any]) -> None:
    """Memory, processes, logs and the time to stop."""
    assert service["mem_limit"][-1] in "mg"
    assert service["pids_limit"] > 0
    assert {"max-size", "max-file"} == set(service["logging"]["options"])
    assert service["init"] is True
    assert service["stop_grace_period"].endswith("s")


@every_service
def test_a_service_comes_back_and_says_whether_it_works(service: dict[str, Any]) -> None:
    """All but a one-shot service are restarted, and have a health check with every time set."""
    if service["restart"] == "no":
        assert "healthcheck" not in service
        return
    assert "unless-stopped" == service["restart"]
    times = {"interval", "timeout", "retries", "start_period", "start_interval"}
    assert times | {"test"} == set(service["healthcheck"])


@pytest.mark.parametrize("services", [DEPLOYED, DEVELOPMENT], ids=["deployed", "development"])
def test_no_secret_is_in_an_environment(services: dict[str, dict[str, Any]]) -> None:
    """`docker inspect` shows environments to everybody who may use the engine."""
    for service in services.values():
        names = service.get("environment", {})
        held = [n for n in names if any(word in n for word in SECRET_WORDS)]
        assert [n for n in held if n.endswith("_FILE")] == held


def test_only_api_and_flower_are_published_and_only_here() -> None:
    """Everything else is reached through the internal network; loopback unless told otherwise."""
    published = {name: service["ports"] for name, service in DEPLOYED.items() if "ports" in service}

    assert PUBLISHED == set(published)
    for ports in published.values():
        assert all("_PUBLISH_HOST:-127.0.0.1}:" in port for port in ports)


def test_development_publishes_on_loopback_only() -> None:
    """A laptop in a café offers its database to nobody."""
    for service in DEVELOPMENT.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_servers_can_be_reached_from_inside_only() -> None:
    """Redis and PostgreSQL are on the internal network alone."""
    networks = yaml.safe_load((ROOT / "compose.yaml").read_text())["networks"]

    assert networks["back"]["internal"] is True
    assert {("back",)} == {tuple(DEPLOYED[name]["networks"]) for name in ("redis", "postgres")}


def test_a_service_waits_for_what_it_needs() -> None:
    """Whoever talks to the record starts after the migration."""
    for name in ("api", "worker", "worker-isolated"):
        needs = DEPLOYED[name]["depends_on"]
        assert "service_completed_successfully" == needs["migrate"]["condition"]
        assert "service_healthy" == needs["redis"]["condition"]


def test_defaults_in_compose_are_the_settings_defaults() -> None:
    """A number that stands in two places is the same number."""
    commands = " ".join(" ".join(service["command"]) for service in DEPLOYED.values())
    fields = CelerySettings.model_fields

    assert f"${{CELERY_CONCURRENCY:-{fields['concurrency'].default}}}" in commands
    assert f"${{CELERY_ISOLATED_CONCURRENCY:-{fields['isolated_concurrency'].default}}}" in commands


def test_base_images_are_the_same_everywhere() -> None:
    """The builder's Python is the final image's, or compiled packages would not fit."""
    lines = (ROOT / "docker/Dockerfile").read_text().splitlines()
    images = {line.split()[1] for line in lines if line.startswith("FROM ") and "/" not in line}

    assert {"python:3.13-slim-trixie", "dependencies"} == images
