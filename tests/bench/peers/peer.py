"""A peer at work: its servers, its processes in its own environment, and what is seen of them."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis

from config.postgres import PostgresSettings
from tests.bench.peers.environment import ROOT, python_of
from tests.bench.peers.ticks import TICK, TICKS_FILE
from tests.bench.stack import Process
from tests.integration import servers

APPS: Final = "tests.bench.peers.apps"
ENQUEUE_S: Final = 300.0
STALLED_S: Final = 60.0
STOP_S: Final = 15.0
PASSWORD: Final = "bench-password"  # goes into URLs that some peers do not unescape


@dataclass(frozen=True, slots=True)
class Bench:
    """What a peer's processes are started with."""

    peer: str
    """Its environment, and its module in `apps`."""
    folder: Path
    environment: Mapping[str, str]

    @property
    def app(self) -> str:
        """The module with its tasks; as a command it enqueues as many as its argument says."""
        return f"{APPS}.{self.peer}_app"

    def enqueue(self, count: int, *, app: str = "") -> tuple[float, float]:
        """Enqueue so many tasks; seconds of wall time and of CPU that it took."""
        told = subprocess.run(
            [python_of(self.peer), "-m", app or self.app, str(count)],
            cwd=ROOT,
            env=self.environment,
            check=True,
            timeout=ENQUEUE_S,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        wall_s, cpu_s = told.split()[-2:]
        return float(wall_s), float(cpu_s)

    @contextmanager
    def process(self, *module: str, name: str = "worker") -> Iterator[Process]:
        """`python -m MODULE …` in the peer's environment; ended afterwards, with its children."""
        with (self.folder / f"{name}.log").open("ab") as log:
            popen = subprocess.Popen(
                [python_of(self.peer), "-m", *module],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Process(popen.pid, boot_s=0)
        finally:
            _end(popen)

    def starts(self) -> list[float]:
        """When each task began, so far."""
        file = self.folder / "ticks"
        noted = file.read_bytes() if file.exists() else b""
        whole = noted[: len(noted) // TICK.size * TICK.size]
        return sorted(at_s for (at_s,) in TICK.iter_unpack(whole))

    def wait_for(self, count: int) -> None:
        """Wait until so many tasks have begun; not longer than a while without any."""
        seen, since_s = -1, time.monotonic()
        while (now := self._started()) < count:
            if now > seen:
                seen, since_s = now, time.monotonic()
            assert time.monotonic() < since_s + STALLED_S, f"{now} of {count}: {self.told()}"
            time.sleep(0.02)

    def _started(self) -> int:
        file = self.folder / "ticks"
        return file.stat().st_size // TICK.size if file.exists() else 0

    def told(self) -> str:
        """The end of what its processes have logged."""
        return "\n".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))


def on_redis(peer: str, **settings: str) -> "AbstractContextManager[Bench]":
    """A peer with a Redis of its own."""
    return _on_redis(peer, settings)


def on_postgres(peer: str, **settings: str) -> "AbstractContextManager[Bench]":
    """A peer with a PostgreSQL of its own, which waits for its disk as Penstock's does."""
    return _on_postgres(peer, settings)


@contextmanager
def _on_redis(peer: str, settings: Mapping[str, str]) -> Iterator[Bench]:
    start = servers.redis_container if servers.uses_containers() else servers.embedded_redis
    with start() as server:
        with redis.Redis.from_url(server.broker_url) as client:
            client.config_set("requirepass", PASSWORD)
        url = f"redis://:{PASSWORD}@{server.host}:{server.port}/0"
        yield _bench(peer, {"BENCH_REDIS": url, **settings})


@contextmanager
def _on_postgres(peer: str, settings: Mapping[str, str]) -> Iterator[Bench]:
    contained = servers.uses_containers()
    start = servers.postgres_container if contained else servers.embedded_postgres
    with start(is_durable=True) as server:
        yield _bench(peer, {"BENCH_POSTGRES": _postgres_url(server), **settings})


def _postgres_url(server: PostgresSettings) -> str:
    assert server.password is not None
    password = quote(server.password.get_secret_value(), safe="")
    return f"postgresql://{server.user}:{password}@{server.host}:{server.port}/{server.db}"


def _bench(peer: str, settings: Mapping[str, str]) -> Bench:
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{peer}-"))
    own = dict(os.environ)  # noqa: TID251 - handed on
    environment = {**own, TICKS_FILE: str(folder / "ticks"), "PYTHONPATH": str(ROOT), **settings}
    return Bench(peer, folder, environment)


def _end(popen: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end, then make it and its children."""
    popen.terminate()
    with suppress(subprocess.TimeoutExpired):
        popen.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait(STOP_S)
