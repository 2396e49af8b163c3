"""What the script hands to `docker stack deploy`."""

import os
import subprocess
from pathlib import Path

import pytest
from local.env_file import derive_files

ROOT = Path(__file__).parents[3]
DOCKER = """#!/bin/sh
printf '%s\\n' "$*" "$PENSTOCK_ENV" "$CELERY_CONCURRENCY" > "$SECRETS_DIR/called"
"""
SETTINGS = {
    "PENSTOCK_ENV": "staging",
    "CELERY_CONCURRENCY": "300",
    "POSTGRES_HOST": "db.internal",
    "RESEARCH_ALLOWED_PRIVATE_HOSTS": '["wiki.internal:80"]',
}
SECRETS = {
    "API_INITIAL_KEY": "zero",
    "POSTGRES_PASSWORD": "one",
    "REDIS_PASSWORD": "two",
    "FLOWER_PASSWORD": "three",
}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What `make secrets` makes, after the script has run with a Docker that only notes what it is told."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "docker").write_text(DOCKER)
    (binaries / "docker").chmod(0o755)
    folder = tmp_path / "secrets"
    derive_files({**SETTINGS, **SECRETS}, folder)
    path = f"{binaries}:{os.environ['PATH']}"  # noqa: TID251 - where the shell's commands are
    subprocess.run(
        [ROOT / "docker/swarm/deploy.sh", "trial"],
        cwd=ROOT,
        env={"PATH": path, "SECRETS_DIR": str(folder)},
        check=True,
        timeout=30,
    )
    return folder


def test_settings_come_without_quotes(secrets) -> None:
    """`docker stack` would make them part of the values."""
    lines = (secrets / "stack.env").read_text().splitlines()

    assert {f"{name}={value}" for name, value in SETTINGS.items()} == set(lines)


def test_no_secret_is_empty(secrets) -> None:
    """Swarm refuses those; a line break means that there is none."""
    assert "one" == (secrets / "postgres_password").read_text().strip()
    assert "\n" == (secrets / "logfire_token").read_text()


def test_the_stack_is_deployed_with_settings_in_the_environment(secrets) -> None:
    """What commands are made of comes from there."""
    command, environment, concurrency = (secrets / "called").read_text().splitlines()

    assert "stack deploy --with-registry-auth -c docker/swarm/stack.yaml trial" == command
    assert ("staging", "300") == (environment, concurrency)
