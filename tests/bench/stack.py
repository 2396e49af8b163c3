"""Servers and processes of Penstock for a benchmark, as they are deployed: PostgreSQL waits for its disk."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.runs.keys import generate_key
from tests.integration import servers
from tests.integration.worker.lab import as_environment

ROOT = Path(__file__).parents[2]
BOOT_S = 60.0
SLOTS = 200
"""Runs that a worker executes at once unless a measure wants others: as CELERY_CONCURRENCY is by default."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Redis and a migrated PostgreSQL, and what starts Penstock's processes beside them."""

    postgres: PostgresSettings
    redis: RedisSettings
    key: str
    """A caller's API key."""
    environment: Mapping[str, str]
    """The variables of all processes."""
    folder: Path
    """For logs."""

    def api(self, **settings: str) -> "AbstractContextManager[tuple[str, Process]]":
        """Gunicorn as it is deployed, with the benchmarks' pipelines; its address."""
        return self.serve("api", "tests.bench.api_app:create_app()", **settings)

    @contextmanager
    def serve(self, name: str, app: str, **settings: str) -> "Iterator[tuple[str, Process]]":
        """Gunicorn with the API's settings and any app; its address."""
        port = servers.free_port()
        command = ("gunicorn", "-c", "services/api/gunicorn.conf.py", app)
        settings |= {"API_PORT": str(port)}
        with self.process(name, "startup complete", *command, **settings) as process:
            yield f"http://127.0.0.1:{port}", process

    def worker(
        self, *options: str, name: str = "worker", slots: int = SLOTS, **settings: str
    ) -> "AbstractContextManager[Process]":
        """The asyncio worker as it is deployed, with the benchmarks' pipelines, once it is ready.

        Args:
            options: For Celery.
            name: Of its log.
            slots: Runs at once.
            settings: For its environment.
        """
        command = ("services.worker", "--app=tests.bench.worker_app", "--pool=custom")
        without = ("--without-gossip", "--without-mingle")
        settings = {
            "CELERY_CUSTOM_WORKER_POOL": "services.worker.pool:TaskPool",
            "CELERY_CONCURRENCY": str(slots),
        } | settings
        options = (f"--concurrency={slots}", *options)
        return self.process(
            name, "ready.", *command, "--queues=runs", *without, *options, **settings
        )

    @contextmanager
    def simulator(
        self, app: str = "services.simulator.app:create_app", **settings: str
    ) -> "Iterator[str]":
        """A simulator of Claude; its address, for ANTHROPIC_SIMULATOR_URL."""
        port = servers.free_port()
        command = ("uvicorn", "--factory", app, f"--port={port}", "--no-access-log")
        with self.process("simulator", "startup complete", *command, **settings):
            yield f"http://127.0.0.1:{port}"

    @contextmanager
    def process(self, name: str, ready: str, *module: str, **settings: str) -> "Iterator[Process]":
        """`python -m MODULE …`, from when its log says that it is ready; ended afterwards."""
        log = self.folder / f"{name}.log"
        began_s = time.monotonic()
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env={**self.environment, **settings},
                stdout=output,
                stderr=output,
            )
        try:
            while ready not in log.read_text():
                assert popen.poll() is None, log.read_text()
                assert time.monotonic() < began_s + BOOT_S, log.read_text()
                time.sleep(0.02)
            yield Process(popen.pid, boot_s=time.monotonic() - began_s)
        finally:
            popen.terminate()
            popen.wait(timeout=BOOT_S)


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the stack, with its children."""

    pid: int
    boot_s: float
    """Seconds until it was ready."""

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has used, with those of children that have ended."""
        return sum(map(_cpu_s, _tree(self.pid)))

    @property
    def pss_mib(self) -> float:
        """Its memory, with its share of what others use too."""
        return sum(map(_pss_mib, _tree(self.pid)))


@contextmanager
def running_stack(**settings: str) -> Iterator[Stack]:
    """Redis and PostgreSQL with the record migrated; settings are for all processes."""
    contained = servers.uses_containers()
    start_redis = servers.redis_container if contained else servers.embedded_redis
    start_postgres = servers.postgres_container if contained else servers.embedded_postgres
    with start_redis() as redis, start_postgres(is_durable=True) as postgres:
        own = {
            key: value
            for key, value in os.environ.items()  # noqa: TID251 - handed on
            if not key.startswith("ANTHROPIC_")
        }
        key = generate_key()
        environment = {
            **own,
            "API_INITIAL_KEY": key,
            **as_environment(postgres, "POSTGRES_"),
            **as_environment(redis, "REDIS_"),
            **settings,
        }
        command = [sys.executable, "-m", "services.migrate"]
        subprocess.run(
            command, cwd=ROOT, env=environment, check=True, timeout=BOOT_S, capture_output=True
        )
        folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
        yield Stack(postgres, redis, key, environment, folder)


# Children may end while they are looked at: what is gone counts as nothing.
_GONE = (FileNotFoundError, ProcessLookupError)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(*_GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _tree(int(child))


def _cpu_s(pid: int) -> float:
    with suppress(*_GONE):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0


def _pss_mib(pid: int) -> float:
    with suppress(*_GONE):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return 0
