"""What runs periodically: name, task, interval. Data only; the work is in services/worker/sweepers.py."""

from typing import Any

from config.celery import CelerySettings
from services.core.queue.contracts import TaskName

EXPIRY_INTERVALS = 20
"""Intervals after which a message that nobody took is dropped: the next ones say the same."""


def create_schedule(settings: CelerySettings) -> dict[str, dict[str, Any]]:
    """Celery's beat_schedule."""
    sweep_s = settings.sweep_interval_s
    return {
        "sweep-runs": {
            "task": TaskName.SWEEP_RUNS,
            "schedule": sweep_s,
            "options": {"expires": EXPIRY_INTERVALS * sweep_s, "ignore_result": True},
        },
    }
