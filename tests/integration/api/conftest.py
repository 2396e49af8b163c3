"""The API as it is deployed: gunicorn with two processes, a real record and real Redis."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.live_text.client import create_client
from services.core.pool import Pool
from services.core.runs.store import RunStore
from services.worker.live_text import TextSender
from tests.integration.fragile_redis import FragileRedis, fragile_redis

ROOT = Path(__file__).parents[3]
START_TIMEOUT_S = 40
LETTER = "Dear {{name}}, I read {{recent_paper}}. {{sender}}"
RUN: dict[str, Any] = {
    "pipeline": "outreach_email",
    "input": {
        "template": LETTER,
        "template_type": "general",
        "recipient": {"name": "Dr. Elena Marsh"},
        "sender": "Sam Okafor",
    },
}


def environment_of(*settings: BaseSettings) -> dict[str, str]:
    """The variables that make these settings."""
    variables = {}
    for model in settings:
        for name in type(model).model_fields:
            value = getattr(model, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value not in (None, ()):
                text = str(value).lower() if isinstance(value, bool) else str(value)
                variables[type(model).variable_of(name)] = text
    return variables


def run_keys(postgres: PostgresSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m services.api.keys` on a database."""
    return subprocess.run(
        [sys.executable, "-m", "services.api.keys", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment_of(postgres)},  # noqa: TID251 - a process of its own
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@dataclass
class Gunicorn:
    """A running API."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    pids: set[int] = field(default_factory=set)

    def stop(self, signum: int = signal.SIGTERM) -> float:
        """Ask it to stop and wait until it has; seconds that took."""
        began_s = time.monotonic()
        self.process.send_signal(signum)
        self.process.wait(timeout=30)
        return time.monotonic() - began_s

    def wait_until_ready(self) -> None:
        """Wait until every process serves."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            if self._has_started() and self._is_ready():
                return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def _has_started(self) -> bool:
        return len(re.findall("Application startup complete", self.log.read_text())) >= 2

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def gunicorn(log: Path, *settings: BaseSettings, **variables: str) -> Iterator[Gunicorn]:
    """Start the API as compose.yaml does, on a free port, and end it afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    own = {
        "API_PORT": str(port),
        "API_WORKERS": "2",
        "PENSTOCK_ENV": "development",
        "ANTHROPIC_SIMULATOR_URL": "http://127.0.0.1:9",
    }
    command = ["-m", "gunicorn", "-c", "services/api/gunicorn.conf.py"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "services.api.app:create_app()"],
            cwd=ROOT,
            env={**os.environ, **environment_of(*settings), **own, **variables},  # noqa: TID251 - likewise
            stdout=output,
            stderr=output,
        )
    running = Gunicorn(process, f"http://127.0.0.1:{port}", log)
    try:
        running.wait_until_ready()
        yield running
    finally:
        process.terminate()
        try:
            process.wait(timeout=25)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)


async def lose_disk(redis: FragileRedis, folder: Path) -> None:
    """Take a Redis, which was started to save in it, its folder: as bad as a full disk."""
    shutil.rmtree(folder)
    with redis.client() as admin:
        admin.bgsave()
        while admin.info("persistence")["rdb_last_bgsave_status"] == "ok":
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def key(module_database: PostgresSettings) -> str:
    """A key, made as an operator makes it."""
    done = run_keys(module_database, "create", "--name", "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def server(
    module_database: PostgresSettings,
    redis_settings: RedisSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gunicorn]:
    """One API for the tests of a module."""
    log = tmp_path_factory.mktemp("api") / "log"
    with gunicorn(log, module_database, redis_settings) as running:
        yield running


@pytest.fixture
def start_server(
    module_database: PostgresSettings, redis_settings: RedisSettings, tmp_path: Path
) -> Iterator[Callable[..., Gunicorn]]:
    """Start an API of one's own; options are environment variables."""
    with ExitStack() as stack:

        def start(**variables: str) -> Gunicorn:
            return stack.enter_context(
                gunicorn(tmp_path / "log", module_database, redis_settings, **variables)
            )

        yield start


@pytest.fixture
def client(server: Gunicorn, key: str) -> Iterator[httpx.Client]:
    """A client with the key."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=15) as http:
        yield http


@pytest.fixture
def fragile() -> Iterator[FragileRedis]:
    """A running Redis that a test may hurt."""
    with fragile_redis() as server:
        yield server


@pytest.fixture
async def text_sender(redis_settings: RedisSettings) -> AsyncIterator[TextSender]:
    """What a worker sends texts with."""
    sender = TextSender(create_client(redis_settings), db=redis_settings.db)
    yield sender
    await sender.close()


@pytest.fixture
async def worker_store(module_database: PostgresSettings) -> AsyncIterator[RunStore]:
    """The record as a worker has it: in another process than the API."""
    store = RunStore(
        Pool(module_database),
        lease_ttl_s=30,
        max_crashes=3,
        rehint_after_s=10,
        max_queued_runs=1000,
    )
    yield store
    await store.close()
