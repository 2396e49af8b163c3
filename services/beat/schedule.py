"""What runs periodically: name, task, interval. Data only; the work is in services/worker."""

from typing import Any

from config.celery import CelerySettings
from services.core.queue.contracts import TaskName

EXPIRY_INTERVALS = 20
"""Intervals after which a message that nobody took is dropped: the next ones say the same."""


def create_schedule(settings: CelerySettings) -> dict[str, dict[str, Any]]:
    """Celery's beat_schedule."""
    return {
        "sweep-runs": _entry(TaskName.SWEEP_RUNS, settings.sweep_interval_s),
        "submit-calls": _entry(TaskName.SUBMIT_CALLS, settings.batch_submit_interval_s),
        "poll-message-batches": _entry(
            TaskName.POLL_MESSAGE_BATCHES, settings.batch_poll_interval_s
        ),
    }


def _entry(task: TaskName, interval_s: float) -> dict[str, Any]:
    """Send a task each so many seconds."""
    options = {"expires": EXPIRY_INTERVALS * interval_s, "ignore_result": True}
    return {"task": task, "schedule": interval_s, "options": options}
