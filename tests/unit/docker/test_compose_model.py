"""Local mode reads the Compose files as Compose does."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from local.compose_model import interpolate, merge, read_services
from local.errors import LocalError

from tests.unit.docker.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "1"),
        ("${A:-2}", "1"),
        ("${B:-2}", "2"),
        ("${EMPTY:-2}", "2"),
        ("${B:-${A}-x}", "1-x"),
        ("${B}", ""),
        ("$$HOME", "$HOME"),
        ("$${A}", "${A}"),
        ("${DOLLAR}", "a$b${A}"),
        ('${B:-["simulator:8080"]}', '["simulator:8080"]'),
    ],
)
def test_variables_are_resolved_as_compose_resolves_them(text: str, expected: str) -> None:
    """Defaults, nested defaults and escaped dollar signs."""
    variables = {"A": "1", "EMPTY": "", "DOLLAR": "a$b${A}"}

    assert [{"x": expected}] == interpolate([{"x": text}], variables)


def test_a_variable_that_must_be_set_says_how() -> None:
    """The file's own message is what the user reads."""
    with pytest.raises(LocalError, match="B is not set"):
        interpolate("${B:?Run this}", {})


def test_an_override_adds_to_lists_and_replaces_commands() -> None:
    """Compose's merge rules for the keys that we use."""
    low = {"command": ["a"], "ports": ["1"], "environment": {"A": "1", "B": "1"}, "restart": "no"}
    high = {"command": ["b"], "ports": ["2"], "environment": {"B": "2"}, "restart": "always"}

    assert {
        "command": ["b"],
        "ports": ["1", "2"],
        "environment": {"A": "1", "B": "2"},
        "restart": "always",
    } == merge(low, high)


def test_the_real_files_are_understood(variables: dict[str, str]) -> None:
    """What a person would look for in them is there."""
    services = read_services(ROOT, variables)

    api = services["api"]
    assert api.healthcheck is not None
    assert "uvicorn" == api.command[0]
    assert [(18000, 8000)] == [(port.published, port.target) for port in api.ports]
    assert "service_completed_successfully" == api.needs["migrate"]
    assert not services["migrate"].does_restart
    assert ("SIGINT", 30.0) == (services["postgres"].stop_signal, services["postgres"].stop_grace_s)
    assert "http://simulator:8080" == services["worker"].environment["ANTHROPIC_SIMULATOR_URL"]
    assert ["config", "services"] == services["worker"].watched


DOCKER = shutil.which("docker")


def _as_compose_has_it(variables: dict[str, str]) -> dict[str, Any]:
    """`docker compose config`, which asks no engine."""
    folder = Path(variables["SECRETS_DIR"])
    folder.mkdir()
    for name in ("revision.env", "settings.env"):
        (folder / name).touch()
    command = [str(DOCKER), "compose", "--env-file", "/dev/null", "config", "--format", "json"]
    shell = {"PATH": os.defpath, "HOME": str(folder), **variables}
    done = subprocess.run(command, cwd=ROOT, env=shell, check=True, capture_output=True)
    return dict(json.loads(done.stdout)["services"])


if shutil.which(
    "docker"
):  # a machine without it runs local mode only, and has nothing to compare with

    def test_compose_reads_the_same(variables: dict[str, str]) -> None:
        """Our reading of the files is Compose's own, for everything that local mode goes by."""
        services = read_services(ROOT, variables)

        for name, theirs in _as_compose_has_it(variables).items():
            ours = services[name]
            # Compose shows a dollar sign as it would have to be written.
            assert theirs["command"] == [word.replace("$", "$$") for word in ours.command]
            assert (theirs.get("environment") or {}) == ours.environment
            assert [secret["source"] for secret in theirs.get("secrets", [])] == ours.secrets
            assert {
                n: v["condition"] for n, v in theirs.get("depends_on", {}).items()
            } == ours.needs
            assert [
                (port["host_ip"], int(port["published"]), port["target"])
                for port in theirs.get("ports", [])
            ] == [(port.host, port.published, port.target) for port in ours.ports]
            assert f"{ours.stop_grace_s:.0f}s" == theirs["stop_grace_period"]
            assert (theirs["restart"] != "no") == ours.does_restart
            if ours.healthcheck:
                test = [word.replace("$", "$$") for word in ours.healthcheck.test]
                assert theirs["healthcheck"]["test"] == test
