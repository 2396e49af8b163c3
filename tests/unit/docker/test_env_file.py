"""`.env` is written once and read as Compose reads it; what is derived from it keeps secrets apart from settings."""

import re
import socket
import stat
from pathlib import Path

import pytest
from local.env_file import (
    choose_ports,
    derive_files,
    generate_api_key,
    read_env_file,
    write_env_file,
)
from local.errors import LocalError

from services.core.runs.keys import parse_key

PORTS = {"API_PORT": 8000}
REQUIRED = {
    "API_INITIAL_KEY": "key",
    "FLOWER_PASSWORD": "f",
    "POSTGRES_PASSWORD": "p",
    "REDIS_PASSWORD": "r",
}


def test_a_fresh_env_file_is_private_and_complete(tmp_path: Path) -> None:
    """Only its owner reads it, and every secret that must be set is set, strong and different."""
    path = tmp_path / ".env"

    is_written = write_env_file(path, ports=PORTS)

    variables = read_env_file(path)
    secrets = [variables[name] for name in REQUIRED]
    assert is_written
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert len(REQUIRED) == len(set(secrets))
    assert min(len(secret) for secret in secrets) >= 20
    assert "8000" == variables["API_PORT"]
    assert "development" == variables["PENSTOCK_ENV"]


def test_an_env_file_is_never_overwritten(tmp_path: Path) -> None:
    """What a person wrote stays, to the byte."""
    path = tmp_path / ".env"
    path.write_text("A=1\n")

    assert not write_env_file(path, ports=PORTS)
    assert "A=1\n" == path.read_text()


def test_the_generated_key_is_one_that_the_api_takes() -> None:
    """The generator on the host and the parser in the services agree about the form."""
    assert parse_key(generate_api_key()) is not None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=1", "1"),
        ("A= 1  # why", "1"),
        ("A='x $y # \"z\"' # why", 'x $y # "z"'),
        ('A="two words"', "two words"),
        ("export A=1", "1"),
        ("A=", ""),
        ("A=  # why", ""),
        ("A=a#b", "a#b"),
        ('A=["simulator:8080"]', '["simulator:8080"]'),
    ],
)
def test_lines_mean_what_they_mean_to_compose(tmp_path: Path, line: str, expected: str) -> None:
    """Quotes, comments and `export` are understood."""
    path = tmp_path / ".env"
    path.write_text(f"# first\n\n{line}\n")

    assert {"A": expected} == read_env_file(path)


@pytest.mark.parametrize("line", ["A=${B}", "A=x$y", 'A="a\\n"', "A", "A='b", "1A=2"])
def test_lines_that_compose_might_read_differently_are_refused(tmp_path: Path, line: str) -> None:
    """Better no start than another password in each place; the message names the line."""
    path = tmp_path / ".env"
    path.write_text(f"OK=1\n{line}\n")

    with pytest.raises(LocalError, match="line 2"):
        read_env_file(path)


def test_ports_that_are_taken_are_passed_over() -> None:
    """A second checkout on one machine gets ports of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]

        ports = choose_ports(lowest={"A": taken, "B": taken})

    assert taken not in ports.values()
    assert 2 == len(set(ports.values()))


def test_secrets_become_files_and_settings_do_not_hold_them(tmp_path: Path) -> None:
    """A container's environment gets the settings; the secrets are files that its user can read."""
    folder = tmp_path / "secrets"
    variables = {**REQUIRED, "CELERY_CONCURRENCY": "7", "ANTHROPIC_MODEL": "it's", "EMPTY": ""}

    derive_files(variables, folder)

    settings = read_env_file(folder / "settings.env")
    assert "r" == (folder / "redis_password").read_text()
    assert "" == (folder / "anthropic_api_key").read_text()
    assert 0o444 == stat.S_IMODE((folder / "redis_password").stat().st_mode)
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    assert {"CELERY_CONCURRENCY": "7", "ANTHROPIC_MODEL": "it's"} == settings


def test_what_concerns_the_host_stays_there(tmp_path: Path) -> None:
    """Variables for Compose itself reach no container."""
    host = {"SECRETS_DIR": "x", "COMPOSE_PROJECT_NAME": "y", "REDIS_PUBLISH_PORT": "1"}

    derive_files({**REQUIRED, **host}, tmp_path)

    assert {} == read_env_file(tmp_path / "settings.env")


def test_a_changed_secret_changes_the_revision(tmp_path: Path) -> None:
    """Containers are renewed after an edit of a secret, and only then."""
    revisions = []
    for password in ("one", "one", "two"):
        derive_files({**REQUIRED, "REDIS_PASSWORD": password}, tmp_path)
        revisions.append((tmp_path / "revision.env").read_text())

    assert revisions[0] == revisions[1] != revisions[2]
    assert "one" not in revisions[0]
    assert re.fullmatch(r"PENSTOCK_SECRETS_REVISION=[0-9a-f]{12}\n", revisions[0])


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    """Nothing starts without a password; the message says which one to set."""
    with pytest.raises(LocalError, match="set REDIS_PASSWORD"):
        derive_files({**REQUIRED, "REDIS_PASSWORD": ""}, tmp_path)
