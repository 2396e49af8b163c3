"""Real processes with our telemetry, and a collector for their spans."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.redis import RedisSettings
from tests.fakes.otlp_collector import OtlpCollector
from tests.integration.servers import free_port

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="package")
def collector() -> Iterator[OtlpCollector]:
    """A collector that listens."""
    with OtlpCollector().running() as collector:
        yield collector


@dataclass(frozen=True, slots=True)
class Processes:
    """Starts processes with the same variables."""

    variables: dict[str, str]
    folder: Path

    @contextmanager
    def running(self, name: str, *command: str) -> Iterator[Path]:
        """Run a command until the block ends, then stop it as Compose does; its log lines."""
        log = self.folder / f"{name}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [BIN / command[0], *command[1:]],
                cwd=ROOT,
                env=self.environment,
                stderr=stderr,
                stdout=subprocess.DEVNULL,
            )
            try:
                yield log
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=30)

    def run_python(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a few lines to their end."""
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables of this machine and ours, without anybody's telemetry settings."""
        foreign = ("LOGFIRE_", "OTEL_", "PENSTOCK_")
        environ = os.environ  # noqa: TID251 - handed on, not read
        inherited = {name: environ[name] for name in environ if not name.startswith(foreign)}
        return inherited | {"PYTHONPATH": str(ROOT)} | self.variables

    @contextmanager
    def worker(self, name: str = "worker") -> Iterator[Path]:
        """A prefork worker that replaces its children after two tasks."""
        app = "tests.integration.telemetry.sample_worker"
        options = (
            f"--hostname={name}@%h",
            "--pool=prefork",
            "--concurrency=2",
            "--without-gossip",
            "--without-mingle",
        )
        with self.running(name, "celery", f"--app={app}", "worker", *options) as log:
            wait_until(lambda: "ready." in log.read_text())
            yield log

    @contextmanager
    def api(self) -> Iterator[tuple[httpx.Client, Path]]:
        """Gunicorn with the sample API."""
        port = free_port()
        config = "tests/integration/telemetry/sample_gunicorn.conf.py"
        app = "tests.integration.telemetry.sample:create_api()"
        command = ("gunicorn", "-c", config, "-b", f"127.0.0.1:{port}", app)
        with (
            self.running("api", *command) as log,
            httpx.Client(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            wait_until(lambda: "Application startup complete" in log.read_text())
            yield http, log


@pytest.fixture(scope="package")
def processes(
    collector: OtlpCollector,
    redis_settings: RedisSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Processes:
    """Processes that send their spans to the collector and their messages to Redis."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "SAMPLE_BROKER": redis_settings.broker_url,
    }
    return Processes(variables, tmp_path_factory.mktemp("processes"))


@dataclass(frozen=True, slots=True)
class Stack:
    """A running API and worker, and the files that their log lines go to."""

    http: httpx.Client
    api_log: Path
    worker_log: Path


@pytest.fixture(scope="package")
def stack(processes: Processes) -> Iterator[Stack]:
    """The sample API and worker, for all tests here; each looks at its own traces only."""
    with processes.worker() as worker_log, processes.api() as (http, api_log):
        yield Stack(http, api_log, worker_log)


def wait_until(condition: Any, *, timeout_s: float = 30) -> None:
    """Wait for a condition to come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def parse_lines(log: Path) -> list[dict[str, Any]]:
    """Every line of a log, each of which must be JSON."""
    return [json.loads(line) for line in log.read_text().splitlines()]
