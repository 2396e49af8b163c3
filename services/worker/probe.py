"""Sends the worker a probe through the broker, to its own queue, so that liveness.py can tell."""

import threading
from typing import Any

from celery import Celery
from celery.bootsteps import StartStopStep
from celery.utils.nodenames import worker_direct

from services.core.queue.contracts import TaskName
from services.core.queue.outbox import Outbox
from services.core.queue.redis_commands import queue_depth
from services.worker.pool import spawn

EXPIRES_S = 30.0
"""Seconds after which a probe that was not consumed is discarded: what it would say is no longer true."""
BACKLOG = 3
"""Probes that may wait; a worker that consumes none must not fill Redis with them."""


class Prober(StartStopStep):
    """A step of Celery's worker: sends probes from a thread, whether or not the consumer is connected.

    While Redis takes no probe, no message can go through any worker, and ending this one would only
    end its runs: so it answers for itself, from the pool's loop, if claiming and heartbeats go on.
    What stays red is a worker that takes nothing from a Redis that is well.
    """

    requires = ("celery.worker.components:Pool",)
    interval_s = 10.0
    """Seconds between probes."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._app: Celery = worker.app
        self._queue = worker_direct(worker.hostname).name
        self._outbox: Outbox[None] = Outbox("probes", self._send, on_failure=self._answer)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._probe_forever, name="prober", daemon=True)

    def start(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Send a probe now and each interval from now on."""
        self._thread.start()

    def stop(self, worker: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Send no more probes."""
        self._stopping.set()

    def terminate(self, worker: Any) -> None:
        """Send no more probes."""
        self.stop(worker)

    def _probe_forever(self) -> None:
        self._outbox.put(None)
        while not self._stopping.wait(self.interval_s):
            self._outbox.put(None)
        self._outbox.close(0)

    def _send(self, probes: list[None]) -> None:
        with self._app.producer_pool.acquire(block=True) as producer:
            if probes and queue_depth(producer, self._queue) < BACKLOG:
                self._app.send_task(
                    TaskName.PROBE_WORKER,
                    queue=self._queue,
                    producer=producer,
                    expires=EXPIRES_S,
                    ignore_result=True,
                )

    def _answer(self) -> None:
        """Take the probe that could not be sent."""
        take_probe = self._app.tasks[TaskName.PROBE_WORKER].run

        async def take_on_loop() -> None:
            take_probe()

        taking = take_on_loop()
        try:
            spawn(taking)  # a blocked loop has to show
        except RuntimeError:  # prefork
            taking.close()
            take_probe()
