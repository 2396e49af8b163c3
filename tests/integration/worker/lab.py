"""Real worker processes on the lab app, and a client that posts runs to them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import redis
from celery import Celery
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from config.postgres import PostgresSettings
from config.redis import RedisSettings
from services.core.queue.publisher import HintPublisher
from services.core.runs.models import ApiKey, NewRun, Run
from services.core.runs.states import FINAL_STATES
from services.core.runs.store import RunStore
from tests.fakes.waiting import until

REPOSITORY = Path(__file__).parents[3]
RECORD = "lab:record"
LEASE_TTL_S = 2
POOLS = {"custom": "runs", "prefork": "isolated,default"}


def as_environment(settings: BaseSettings, prefix: str) -> dict[str, str]:
    """The variables that give a subprocess the same settings."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        f"{prefix}{name}".upper(): value.get_secret_value()
        if isinstance(value, SecretStr)
        else str(value)
        for name, value in values.items()
        if value is not None and value != ()
    }


class LabWorker:
    """One `celery worker`; the asyncio worker below its watcher, as in its container."""

    def __init__(
        self, folder: Path, settings: dict[str, str], *, pool: str, is_restarted: bool = False
    ) -> None:
        self._is_restarted = is_restarted
        self.name = f"{pool}-{uuid4().hex[:6]}@lab"
        self.heartbeat_file = folder / f"{self.name}.heartbeat"
        self._log = folder / f"{self.name}.log"
        self._environment = (
            os.environ  # noqa: TID251 - the worker's environment
            | settings
            | {
                "CELERY_CUSTOM_WORKER_POOL": "services.worker.pool:TaskPool",
                "CELERY_HEARTBEAT_FILE": str(self.heartbeat_file),
            }
        )
        command = [sys.executable, "-m", "services.worker", "--app=tests.fakes.lab_app"]
        if pool == "custom":
            command = [sys.executable, "-m", "services.worker.watcher", *command]
        command += ["-P", pool, "-Q", POOLS[pool], "-c", "2" if pool == "prefork" else "10"]
        command += ["-n", self.name, "-l", "INFO", "--without-gossip", "--without-mingle"]
        self._command = command
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=REPOSITORY, env=self._environment, stdout=log, stderr=log
            )

    def restart_if_dead(self) -> None:
        """Do what a container's restart policy does, if this worker has one."""
        if self._is_restarted and self.process.poll() is not None:
            self.process = self._start()

    @property
    def pool_pid(self) -> int:
        """The process that executes runs: the watcher's only child."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def output(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    async def wait_until_ready(self) -> None:
        """Wait until it consumes."""
        await until(lambda: " ready." in self.output() or self.process.poll(), within_s=30)
        assert self.process.poll() is None, self.output()

    def stop(self, number: int = signal.SIGTERM, *, timeout_s: float = 30) -> float:
        """Signal it and wait for its end; seconds that this took."""
        started_s = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout_s)
        return time.monotonic() - started_s


class Lab:
    """A record, a Redis, a client, and as many workers as a test wants."""

    def __init__(
        self,
        *,
        folder: Path,
        store: RunStore,
        key: ApiKey,
        app: Celery,
        servers: tuple[PostgresSettings, RedisSettings],
    ) -> None:
        self.store = store
        self.app = app
        self.publisher = HintPublisher(app)
        self.workers: list[LabWorker] = []
        self._folder = folder
        self._key = key
        postgres, broker = servers
        self._postgres = postgres
        self.settings = {
            **as_environment(postgres, "POSTGRES_"),
            **as_environment(broker, "REDIS_"),
            "CELERY_LEASE_TTL_S": str(LEASE_TTL_S),
            "CELERY_RETRY_BACKOFF_S": "0.2",
            "CELERY_SWEEP_INTERVAL_S": "0.5",
            "CELERY_REHINT_AFTER_S": "3",
            "CELERY_SHUTDOWN_GRACE_S": "1",
            "LOGFIRE_LOG_FORMAT": "text",
        }
        self._broker = broker

    async def start_worker(
        self, *, pool: str = "custom", is_restarted: bool = False, **settings: str
    ) -> LabWorker:
        """A worker that is ready; `is_restarted` if it dies while the lab waits for runs."""
        worker = LabWorker(
            self._folder, self.settings | settings, pool=pool, is_restarted=is_restarted
        )
        self.workers.append(worker)
        await worker.wait_until_ready()
        return worker

    async def post(
        self, behaviour: str = "return", seconds: float = 0, *, traceparent: str | None = None
    ) -> UUID:
        """Accept a run and hint it, as the API does."""
        run_id = await self.post_without_hint(behaviour, seconds, traceparent=traceparent)
        self.publisher.hint(run_id)
        return run_id

    async def post_without_hint(
        self, behaviour: str = "return", seconds: float = 0, *, traceparent: str | None = None
    ) -> UUID:
        """Accept a run whose hint is lost."""
        new = NewRun(
            key_id=self._key.id,
            pipeline="lab",
            input={"behaviour": behaviour, "seconds": seconds},
            step_names=("first", "second"),
            traceparent=traceparent,
        )
        run, _ = await self.store.accept_run(new)
        return run.id

    async def post_suspect(
        self, behaviour: str = "return", seconds: float = 0, *, traceparent: str | None = None
    ) -> UUID:
        """A run that counts as having killed its worker before, so that it is executed alone."""
        run_id = await self.post_without_hint(behaviour, seconds, traceparent=traceparent)
        await self._mark_suspect(run_id)
        self.publisher.hint(run_id, is_isolated=True)
        return run_id

    async def _mark_suspect(self, run_id: UUID) -> None:
        password = self._postgres.password
        connection = await asyncpg.connect(
            host=self._postgres.host,
            port=self._postgres.port,
            user=self._postgres.user,
            password=password.get_secret_value() if password else None,
            database=self._postgres.db,
        )
        await connection.execute("UPDATE runs SET is_isolated = true WHERE id = $1", run_id)
        await connection.close()

    async def get(self, run_id: UUID) -> Run:
        """A run as its client sees it."""
        return await self.store.get_run(self._key.id, run_id)

    async def wait(self, *run_ids: UUID, within_s: float = 20) -> list[Run]:
        """The runs once all have ended; sweeps meanwhile, as every API process does."""
        deadline_s = time.monotonic() + within_s
        while True:
            runs = [await self.get(run_id) for run_id in run_ids]
            if all(run.state in FINAL_STATES for run in runs):
                return runs
            assert time.monotonic() < deadline_s, self.told(runs)
            await self.sweep()

    async def sweep(self) -> None:
        """Requeue and hint, as every API process does; start dead workers again."""
        for worker in self.workers:
            worker.restart_if_dead()
        await self.store.requeue_lapsed_runs()
        for hint in await self.store.take_due_hints():
            self.publisher.hint(hint.run_id, is_isolated=hint.is_isolated)
        await asyncio.sleep(0.2)

    async def cancel(self, run_id: UUID) -> Run:
        """Cancel a run, as its client would."""
        return await self.store.cancel_run(self._key.id, run_id)

    def noted(self) -> list[str]:
        """Which steps have begun, as "step run_id"."""
        with redis.Redis.from_url(self._broker.result_url, decode_responses=True) as client:
            return list(client.lrange(RECORD, 0, -1))

    def broker(self) -> "redis.Redis":
        """A client of the broker's database."""
        return redis.Redis.from_url(self._broker.broker_url, decode_responses=True)

    def broker_depth(self, queue: str) -> int:
        """Messages that wait in a queue."""
        with self.broker() as client:
            return int(client.llen(queue))

    async def wait_for_step(self, step: str, run_id: UUID) -> None:
        """Wait until a step has begun."""
        await until(lambda: f"{step} {run_id}" in self.noted(), within_s=15)

    def told(self, runs: list[Run]) -> str:
        """Everything that may explain a failure."""
        logs = "\n".join(worker.output()[-5000:] for worker in self.workers)
        return f"{[(run.state, run.crashes, run.failure) for run in runs]}\n{logs}"

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(10)
        self.publisher.close()
