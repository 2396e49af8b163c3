"""A real worker process on the asyncio pool, for tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from celery import Celery, states

from config.redis import RedisSettings

REPOSITORY = Path(__file__).parents[3]
RECORD = "pool-app:record"


class SentTask:
    """A task that was sent, and what the result backend knows about it."""

    def __init__(self, task_id: str, worker: "PoolWorker") -> None:
        self.id = task_id
        self._worker = worker

    @property
    def meta(self) -> dict[str, Any]:
        """What is stored: status, result, traceback."""
        meta: dict[str, Any] = self._worker.reader.backend.get_task_meta(self.id)
        return meta

    @property
    def state(self) -> str:
        """Celery's state of the task."""
        return str(self.meta["status"])

    def get(self, *, timeout_s: float = 15, propagate: bool = True) -> Any:
        """Wait for the result; raises it if it is an error, unless told otherwise."""
        wait_until(
            lambda: self.state in states.READY_STATES,
            timeout_s=timeout_s,
            what=lambda: f"{self.id} is {self.state}\n{self._worker.output()[-3000:]}",
        )
        result = self.meta["result"]
        if propagate and isinstance(result, BaseException):
            raise result
        return result

    def revoke(self, *, terminate: bool = False) -> None:
        """Revoke it, and wait until the worker knows."""
        self._worker.app.control.revoke(
            self.id, terminate=terminate, destination=[self._worker.name], reply=True, timeout=2
        )


class PoolWorker:
    """A running `celery worker -P custom`, and an app that sends it tasks."""

    def __init__(self, settings: RedisSettings, log: Path, **options: str) -> None:
        self.settings = settings
        self.log = log
        self.name = f"pool-{uuid4().hex[:8]}@test"
        self.app = Celery("pool_app", broker=settings.broker_url)
        # Reads results by polling: with a result backend, sending would subscribe to them.
        self.reader = Celery("reader", backend=settings.result_url)
        self.redis = redis.Redis.from_url(settings.result_url, decode_responses=True)
        self.broker = redis.Redis.from_url(settings.broker_url, decode_responses=True)
        pool = options.pop("pool", "custom")
        concurrency = options.pop("concurrency", "100")
        loglevel = options.pop("loglevel", "INFO")
        arguments = ["-P", pool, "-c", concurrency, "-n", self.name, "-l", loglevel]
        self.process = self._spawn(arguments, options)

    def _spawn(self, arguments: list[str], options: dict[str, str]) -> "subprocess.Popen[bytes]":
        environment = os.environ | {  # noqa: TID251 - the worker's environment
            "CELERY_CUSTOM_WORKER_POOL": "services.worker.pool:TaskPool",
            "POOL_APP_REDIS_URL": self.settings.broker_url,
            "POOL_APP_RESULT_URL": self.settings.result_url,
            **options,
        }
        command = [sys.executable, "-m", "celery", "-A", "tests.fakes.pool_app", "worker"]
        command += arguments
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )

    def wait_until_ready(self) -> None:
        """Wait until it consumes."""
        wait_until(lambda: " ready." in self.output(), timeout_s=20, what=self.output)

    def send(self, task: str, *args: Any, **options: Any) -> "SentTask":
        """Send a task of the test app."""
        sent = self.app.send_task(f"tests.fakes.pool_app.{task}", args, **options)
        return SentTask(sent.id, self)

    def send_many(self, task: str, arguments: list[tuple[Any, ...]]) -> None:
        """Send many tasks at once."""
        with self.app.producer_or_acquire() as producer, producer.batch():
            for args in arguments:
                self.app.send_task(f"tests.fakes.pool_app.{task}", args, producer=producer)

    def call(self, task: str, *args: Any, timeout_s: float = 15) -> Any:
        """Send a task and wait for its result."""
        return self.send(task, *args).get(timeout_s=timeout_s)

    def output(self) -> str:
        """What the worker has printed and logged."""
        return self.log.read_text()

    def recorded(self) -> list[str]:
        """What its tasks have noted."""
        return list(self.redis.lrange(RECORD, 0, -1))

    def wait_for_record(self, fact: str) -> None:
        """Wait until the worker has noted something."""
        wait_until(lambda: fact in self.recorded(), timeout_s=15, what=lambda: str(self.recorded()))

    def unacked(self) -> int:
        """How many messages Redis holds as delivered and not acknowledged."""
        return int(self.broker.hlen("unacked"))

    def queued(self) -> int:
        """How many messages wait in the queue."""
        return int(self.broker.llen("celery"))

    def stop(self, signum: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Signal the worker and wait for its end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End the worker in any case, and the connections."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.redis.close()
        self.broker.close()
        self.app.close()
        self.reader.close()


def wait_until(
    is_true: Callable[[], bool], *, timeout_s: float, what: Callable[[], str] = str
) -> None:
    """Wait for a condition; fails with what `what` says."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@contextmanager
def pool_worker(settings: RedisSettings, log: Path, **options: str) -> Iterator[PoolWorker]:
    """A worker that is ready, and is ended afterwards."""
    worker = PoolWorker(settings, log, **options)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.close()
