"""Sends hints, best effort: a lost hint costs time, never work."""

from dataclasses import dataclass
from uuid import UUID

from celery import Celery
from kombu import Producer

from services.core import telemetry
from services.core.queue.contracts import QUEUE_OF_TASK, RunHint, TaskName
from services.core.queue.outbox import Outbox
from services.core.queue.redis_commands import queue_depth

WAKE_UPS_PER_FLUSH = 4
"""Most messages for a burst of ordinary runs: each wakes a worker, which claims all it can hold."""
BUSY_SHARE = 0.1
"""Part of its time that the thread may take: a hint that comes alone goes at once, those of a busy process together.
Celery takes most of a millisecond of CPU for each message, which is as much as accepting a run."""
FULL_QUEUE = 1000
"""Messages in a queue above which hints are left out: workers have enough to wake up for."""
WAKE_UPS_WAITING = 100
"""The same where a message only wakes a worker: more would wake none that these do not."""

FULL_REST_S = 0.1
"""Seconds until the next look at a queue that is full: hints wait meanwhile, as what is to wake their workers does."""


@dataclass(frozen=True, slots=True)
class _Hint:
    """A run that is due, and the trace in which that became known."""

    run_id: UUID
    traceparent: str | None


class HintPublisher:
    """Publishes hints from a background thread, so that no caller ever waits for Redis."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._waking = 0
        """Ordinary hints that wait for the thread."""
        self._depths: dict[TaskName, int] = {}
        """Messages in the queue of a task when this process last looked."""
        self._outbox: Outbox[tuple[TaskName, _Hint]] = Outbox(
            "hints", self._publish, busy_share=BUSY_SHARE
        )

    def start(self) -> None:
        """Start the thread and connect, so that the first hint is as quick as the others."""
        self._outbox.start()

    def hint(self, run_id: UUID, *, is_isolated: bool = False) -> None:
        """Queue a hint and return at once; it carries the caller's trace context.

        Dropped if enough wait, all of which will wake a worker after this, or if Redis does not take it: the next sweep
        hints again.
        """
        if is_isolated:
            self._outbox.put((TaskName.EXECUTE_ISOLATED_RUN, _hint(run_id)))
        elif self._waking < WAKE_UPS_PER_FLUSH and self._outbox.put(
            (TaskName.EXECUTE_RUN, _hint(run_id))
        ):
            self._waking += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, within the timeout."""
        self._outbox.close(timeout_s)

    def _publish(self, hints: list[tuple[TaskName, _Hint]]) -> float:
        """Send a few messages for all ordinary runs together, and one for each suspect run."""
        self._waking = 0
        ordinary = [hint for task, hint in hints if task is TaskName.EXECUTE_RUN]
        suspects = {hint.run_id: hint for task, hint in hints if task is not TaskName.EXECUTE_RUN}
        with self._app.producer_pool.acquire(block=True) as producer:
            wake_ups = ordinary[:WAKE_UPS_PER_FLUSH]
            self._send(producer, TaskName.EXECUTE_RUN, wake_ups, up_to=WAKE_UPS_WAITING)
            isolated = list(suspects.values())
            self._send(producer, TaskName.EXECUTE_ISOLATED_RUN, isolated, up_to=FULL_QUEUE)
        is_full = self._depths.get(TaskName.EXECUTE_RUN, 0) >= WAKE_UPS_WAITING
        return FULL_REST_S if is_full and not isolated else 0.0

    def _send(self, producer: Producer, task: TaskName, hints: list[_Hint], *, up_to: int) -> None:
        """Send hints while the queue has room.

        It is looked at after them, so that a hint on an idle system does not wait for that. What others have sent
        meanwhile is not known then: each process can exceed the bound by one flush.
        """
        if not hints:
            return
        queue = QUEUE_OF_TASK[task]
        # Taken out, so that after a failure it is looked at first, which sets aside what is in its way.
        depth = self._depths.pop(task, up_to)
        if depth + len(hints) > up_to:
            depth = queue_depth(producer, queue)
        for hint in hints[: max(0, up_to - depth)]:
            with telemetry.in_trace(hint.traceparent):
                self._app.send_task(
                    task,
                    kwargs=dict(RunHint(run_id=str(hint.run_id))),
                    producer=producer,
                    ignore_result=True,
                )
        self._depths[task] = queue_depth(producer, queue)


def _hint(run_id: UUID) -> _Hint:
    return _Hint(run_id, telemetry.current_traceparent())
