"""Celery's scheduler, in memory, which never waits for Redis."""

from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from services.core.queue.contracts import QUEUE_OF_TASK, TaskName
from services.core.queue.outbox import Outbox
from services.core.queue.redis_commands import queue_depth

BACKLOG = 20
"""Messages in a queue above which nothing is sent: they say the same, and would fill Redis in time."""


class SteadyScheduler(Scheduler):
    """Sends from a thread, best effort, so that an outage holds up no tick and is logged once.

    Celery's own connects before it ticks, tries ever more rarely (up to 30 s apart), and logs a
    stack trace for each message that Redis does not take.
    """

    producer: Any = None  # a connection of its own is what Celery's scheduler waits for

    def __init__(self, *args: Any, **options: Any) -> None:
        self._outbox: Outbox[ScheduleEntry] = Outbox("beat", self._send)
        super().__init__(*args, **options)

    def apply_entry(self, entry: ScheduleEntry, producer: object = None) -> None:  # noqa: ARG002 - Celery's signature
        """Queue the message of an entry that is due."""
        self._outbox.put(entry)

    def close(self) -> None:
        """Send what waits, for a moment."""
        self._outbox.close(timeout_s=1)
        super().close()

    def _send(self, entries: list[ScheduleEntry]) -> None:
        """Send one message for each entry, however often it has become due meanwhile."""
        latest = {entry.name: entry for entry in entries}
        with self.app.producer_pool.acquire(block=True) as producer:
            for entry in latest.values():
                if queue_depth(producer, QUEUE_OF_TASK[TaskName(str(entry.task))]) < BACKLOG:
                    self.apply_async(entry, producer=producer, advance=False)
