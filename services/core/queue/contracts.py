"""Queues, task names and payloads: the contract between API, beat and workers.

Neither side owns it. During a rolling deploy old and new processes share the queues, so a name is never
reused for another meaning and a new payload field is optional.
"""

from enum import StrEnum
from typing import NotRequired, TypedDict


class QueueName(StrEnum):
    """The Celery queues."""

    RUNS = "runs"
    """Hints for the asyncio worker."""
    ISOLATED = "isolated"
    """Hints for suspect runs, one per prefork child."""
    DEFAULT = "default"
    """Sweeps, message batches and health checks, on the isolated worker."""


class TaskName(StrEnum):
    """The Celery tasks."""

    EXECUTE_RUN = "runs.execute"
    """A hint that work is due: claim as many runs as there are free slots."""
    EXECUTE_ISOLATED_RUN = "runs.execute_isolated"
    """Execute one suspect run alone in this process."""
    SWEEP_RUNS = "runs.sweep"
    """Requeue lapsed runs and hint due ones again."""
    SUBMIT_CALLS = "calls.submit"
    """Send calls of runs in batch mode to Claude."""
    POLL_MESSAGE_BATCHES = "calls.poll_batches"
    """Fetch the results of message batches that have ended."""
    HEALTH_CHECK = "health.check"
    """Answer with worker, versions and Redis latency."""
    PROBE_WORKER = "worker.probe"
    """Sent by a worker to itself: shows that hints still go through."""


QUEUE_OF_TASK: dict[TaskName, QueueName] = {
    TaskName.EXECUTE_RUN: QueueName.RUNS,
    TaskName.EXECUTE_ISOLATED_RUN: QueueName.ISOLATED,
    TaskName.SWEEP_RUNS: QueueName.DEFAULT,
    TaskName.SUBMIT_CALLS: QueueName.DEFAULT,
    TaskName.POLL_MESSAGE_BATCHES: QueueName.DEFAULT,
    TaskName.HEALTH_CHECK: QueueName.DEFAULT,
}


class RunHint(TypedDict):
    """Keyword arguments of EXECUTE_RUN and EXECUTE_ISOLATED_RUN: only ids, never data."""

    run_id: NotRequired[str]


class HealthReport(TypedDict):
    """The result of HEALTH_CHECK."""

    worker: str
    versions: dict[str, str]
    redis_latency_ms: float
