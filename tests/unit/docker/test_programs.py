"""A local process is the Compose service with this machine's addresses, and nothing else."""

import shlex
from pathlib import Path

import pytest
import yaml
from local.compose_model import Service, interpolate, read_services
from local.env_file import derive_files
from local.programs import Place, Program, make_programs

from tests.unit.docker.conftest import ROOT

SHELL = {"PATH": "/bin", "HOME": "/home/me", "REDIS_PASSWORD": "x", "HTTPS_PROXY": "http://p"}


@pytest.fixture
def services(variables: dict[str, str]) -> dict[str, Service]:
    """The real Compose files."""
    return read_services(ROOT, variables)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A local stack's folders."""
    needed = ("API_INITIAL_KEY", "FLOWER_PASSWORD", "POSTGRES_PASSWORD", "REDIS_PASSWORD")
    secrets = dict.fromkeys(needed, "s")
    derive_files({**secrets, "CELERY_CONCURRENCY": "8000"}, tmp_path / "secrets")
    return Place(root=ROOT, run_dir=tmp_path / "run", secrets_dir=tmp_path / "secrets")


@pytest.fixture
def programs(services: dict[str, Service], place: Place) -> dict[str, Program]:
    """What local mode would start."""
    return make_programs(services, place, shell=SHELL)


def _from_files(variables: dict[str, str]) -> dict[str, list[str]]:
    """Each service's command as the YAML has it, found without the code under test; the override's wins."""
    commands: dict[str, list[str]] = {}
    for name in ("compose.yaml", "compose.override.yaml"):
        for service, values in yaml.safe_load((ROOT / name).read_text())["services"].items():
            if "command" in values:
                commands[service] = interpolate(values["command"], variables)
    return commands


def test_every_service_has_the_command_of_the_compose_files(
    programs: dict[str, Program], place: Place, variables: dict[str, str]
) -> None:
    """The two modes cannot drift: commands differ in published ports, loopback and the scratch folder only."""
    for name, command in _from_files(variables).items():
        if name in ("redis", "postgres"):
            continue
        expected = (
            shlex.join(command)
            .replace("/tmp/", f"{place.scratch(name)}/")  # noqa: S108 - the container's own
            .replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - not bound
            .replace("--port=8000", "--port=18000")
            .replace("--port=8080", "--port=18080")
        )
        assert expected == shlex.join(programs[name].command), name


def test_every_service_is_started(programs: dict[str, Program], variables: dict[str, str]) -> None:
    """None is left out, and none is added."""
    assert set(_from_files(variables)) == set(programs)


def test_health_checks_ask_the_published_ports(programs: dict[str, Program]) -> None:
    """A check that asks a port of the container would be true or false by accident."""
    assert "127.0.0.1:18000/readyz" in shlex.join(programs["api"].probe or [])
    assert "127.0.0.1:15555/healthcheck" in shlex.join(programs["flower"].probe or [])
    assert ["python", "-m", "services.worker.liveness"] == programs["worker"].probe
    assert ["sh", "-c"] == (programs["beat"].probe or [])[:2]
    assert "celerybeat@$HOSTNAME" in shlex.join(programs["beat"].probe or [])


def test_servers_are_found_on_this_machine(programs: dict[str, Program]) -> None:
    """Names of containers become loopback and published ports, in settings of any form."""
    environment = programs["worker"].environment

    assert ("127.0.0.1", "16379") == (environment["REDIS_HOST"], environment["REDIS_PORT"])
    assert ("127.0.0.1", "15432") == (environment["POSTGRES_HOST"], environment["POSTGRES_PORT"])
    assert "http://127.0.0.1:18080" == environment["ANTHROPIC_SIMULATOR_URL"]
    assert '["127.0.0.1:18080"]' == environment["RESEARCH_ALLOWED_PRIVATE_HOSTS"]
    assert ("127.0.0.1", "18000") == (
        programs["api"].environment["API_BIND_HOST"],
        programs["api"].environment["API_PORT"],
    )


def test_scratch_files_are_kept_apart(programs: dict[str, Program], place: Place) -> None:
    """Two services that both write /tmp/heartbeat do not vouch for each other."""
    files = {
        programs[name].environment["CELERY_HEARTBEAT_FILE"]
        for name in ("worker", "worker-isolated")
    }

    assert {
        str(place.scratch(name) / "heartbeat") for name in ("worker", "worker-isolated")
    } == files


def test_settings_arrive_as_they_are(programs: dict[str, Program]) -> None:
    """A setting that happens to equal a port is no port."""
    assert "8000" == programs["api"].environment["CELERY_CONCURRENCY"]


def test_the_shell_gives_nothing_but_facts_about_the_machine(programs: dict[str, Program]) -> None:
    """A variable that is set by chance in a terminal does not change a service."""
    environment = programs["api"].environment

    assert "REDIS_PASSWORD" not in environment
    assert "http://p" == environment["HTTPS_PROXY"]


def test_the_server_of_hints_has_the_containers_configuration(programs: dict[str, Program]) -> None:
    """The embedded server is started by the container's script with the container's file."""
    redis = programs["redis"]

    assert ["sh", str(ROOT / "docker/redis/start.sh")] == redis.command[:2]
    assert str(ROOT / "docker/redis/redis.conf") == redis.environment["REDIS_CONF"]
    assert Path(redis.environment["REDIS_SERVER"]).exists()


def test_the_record_has_the_containers_configuration(programs: dict[str, Program]) -> None:
    """So has the embedded PostgreSQL, and it listens on loopback only."""
    postgres = programs["postgres"]

    assert f"--config_file={ROOT / 'docker/postgres/postgresql.conf'}" in postgres.command
    assert "--listen_addresses=127.0.0.1" in postgres.command
    assert "15432" == postgres.environment["PGPORT"]
    assert "pg_isready" in shlex.join(postgres.probe or [])


def test_a_program_changes_with_its_code_and_its_settings(programs: dict[str, Program]) -> None:
    """`make up` restarts what would start differently, and nothing else."""
    api = programs["api"]

    assert api.fingerprint("one") == api.fingerprint("one")
    assert api.fingerprint("one") != api.fingerprint("two")
    assert api.fingerprint("one") != programs["flower"].fingerprint("one")
