"""Sends the worker a probe through the broker, to its own queue, so that liveness.py can tell."""

from typing import Any

from celery import Celery
from celery.bootsteps import StartStopStep
from celery.utils.nodenames import worker_direct
from kombu.asynchronous.timer import Entry

from services.core.queue.contracts import TaskName
from services.core.queue.outbox import Outbox
from services.core.queue.redis_commands import queue_depth

EXPIRES_S = 30.0
"""Seconds after which a probe that was not consumed is discarded: what it would say is no longer true."""
BACKLOG = 3
"""Probes that may wait; a worker that consumes none must not fill Redis with them."""


class Prober(StartStopStep):
    """A step of Celery's consumer: sends probes from start to stop, also after each reconnection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    interval_s = 10.0
    """Seconds between probes."""

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._app: Celery = consumer.app
        self._queue = worker_direct(consumer.hostname).name
        self._outbox: Outbox[None] = Outbox("probes", self._send)
        self._timer: Entry | None = None

    def start(self, consumer: Any) -> None:
        """Send a probe now and each interval from now on."""
        self._outbox.put(None)
        self._timer = consumer.timer.call_repeatedly(self.interval_s, self._outbox.put, (None,))

    def stop(self, _consumer: Any) -> None:
        """Send no more probes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, _probes: list[None]) -> None:
        with self._app.producer_pool.acquire(block=True) as producer:
            if queue_depth(producer, self._queue) < BACKLOG:
                self._app.send_task(
                    TaskName.PROBE_WORKER,
                    queue=self._queue,
                    producer=producer,
                    expires=EXPIRES_S,
                    ignore_result=True,
                )
