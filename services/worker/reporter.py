"""Reports each execution of a run to Flower as a Celery task of its own."""

import sys
from typing import Any

from celery import Celery

from services.core.clock import monotonic_s, utc_now
from services.core.queue.outbox import Outbox
from services.core.runs.models import Lease
from services.worker.endings import Cleared, Ending, Failed, Parked, PutBack, Retrying, Succeeded

_Event = tuple[str, dict[str, Any]]

AT_ONCE = 1000
"""Executions that are reported however soon one follows the other."""
PER_S = 100
"""Executions that are reported in the long run: Flower takes no more, and each costs the worker's CPU."""


class RunReporter:
    """Sends Celery's task events for runs from a background thread, best effort.

    A hint says nothing of the run that it leads to, so hints send no events and runs do: with the
    run's id, pipeline, state and runtime. Of many thousand short runs it shows a part; all are in
    the record.
    """

    def __init__(self, app: Celery, *, worker: str) -> None:
        """Args: app, worker (node name under which Flower shows the runs, such as celery@host)."""
        self._app = app
        self._worker = worker
        self._outbox: Outbox[_Event] = Outbox("flower events", self._send)
        self._room = Room(at_once=AT_ONCE, per_s=PER_S)

    def report_start(self, lease: Lease) -> "RunReport":
        """Tell that the run was taken and is executed from now on."""
        if not self._room.take(monotonic_s()):
            return RunReport(None, lease)
        self.put(
            "task-received",
            lease,
            name=f"run:{lease.pipeline}",
            args=f"('{lease.run_id}',)",
            kwargs="{}",
            retries=lease.fence - 1,
        )
        self.put("task-started", lease)
        return RunReport(self, lease)

    def put(self, event: str, lease: Lease, **fields: Any) -> None:
        """Queue an event about an execution."""
        # A run can be executed again after it ended (replay), and Flower never leaves a final state.
        uuid = str(lease.run_id) if lease.fence == 1 else f"{lease.run_id}.{lease.fence}"
        stamped = {"uuid": uuid, "timestamp": utc_now().timestamp(), **fields}
        self._outbox.put((event, stamped))

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, within the timeout."""
        self._outbox.close(timeout_s)

    def _send(self, events: list[_Event]) -> None:
        """Send all events in one message."""
        with (
            self._app.producer_pool.acquire(block=True) as producer,
            self._app.events.Dispatcher(
                producer.connection,
                hostname=self._worker,
                channel=producer.channel,
                buffer_while_offline=False,
                buffer_group={"task"},
                buffer_limit=sys.maxsize,
            ) as dispatcher,
        ):
            for event, fields in events:
                dispatcher.send(event, **fields)
            dispatcher.flush()


class Room:
    """Room for so many at once, that grows back with time."""

    def __init__(self, *, at_once: int, per_s: float) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._left = float(at_once)
        self._seen_s = 0.0

    def take(self, now_s: float) -> bool:
        """Take room for one; whether there was any."""
        self._left = min(self._at_once, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RunReport:
    """What Flower is told about one execution; nothing, without a reporter."""

    __slots__ = ("_lease", "_reporter", "_started_at_s")

    def __init__(self, reporter: RunReporter | None, lease: Lease) -> None:
        self._reporter = reporter
        self._lease = lease
        self._started_at_s = monotonic_s()

    def end(self, ending: Ending) -> None:
        """Tell how the execution ended."""
        if self._reporter is None:
            return
        match ending:
            case Succeeded():
                runtime_s = monotonic_s() - self._started_at_s
                self._put("task-succeeded", result="'succeeded'", runtime=runtime_s)
            case Retrying(step, error):
                self._put("task-retried", exception=f"{step}: {error}", traceback="")
            case Parked(step, _, reason):
                self.interrupt(f"{step} waits: {reason}")
            case Failed(failure):
                text = f"{failure.reason}: {failure.message}"
                self._put("task-failed", exception=text, traceback="")
            case PutBack(reason):
                self.interrupt(reason)
            case Cleared():
                self.interrupt("no suspect any more, goes on among others")

    def interrupt(self, reason: str) -> None:
        """Tell that the execution ended without a result; the run goes on elsewhere, or was cancelled."""
        self._put("task-retried", exception=reason, traceback="")

    def _put(self, event: str, **fields: Any) -> None:
        if self._reporter is not None:
            self._reporter.put(event, self._lease, **fields)
