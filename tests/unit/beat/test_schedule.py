"""What beat sends."""

from config.celery import CelerySettings
from services.beat.schedule import create_schedule
from services.core.queue.contracts import QUEUE_OF_TASK


def test_every_entry_is_a_known_task_that_expires() -> None:
    """Beat sends only tasks that a worker takes, and what nobody takes does not pile up for ever."""
    schedule = create_schedule(CelerySettings(sweep_interval_s=2))

    assert {entry["task"] for entry in schedule.values()} <= set(QUEUE_OF_TASK)
    for entry in schedule.values():
        assert 0 < entry["schedule"] < entry["options"]["expires"]
        assert entry["options"]["ignore_result"]


def test_sweeps_come_at_the_configured_interval() -> None:
    """CELERY_SWEEP_INTERVAL_S is the interval, in seconds."""
    assert 2 == create_schedule(CelerySettings(sweep_interval_s=2))["sweep-runs"]["schedule"]
