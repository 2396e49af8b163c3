"""Beat outlives what happens to Redis, and a second beat."""

import json
import time
from pathlib import Path

from config.celery import CelerySettings
from services.beat.scheduler import BACKLOG
from services.core.queue.app import create_celery_app
from services.core.queue.contracts import QueueName
from tests.integration.fragile_redis import STATES, FragileRedis
from tests.integration.worker.celery_process import celery_process
from tests.integration.worker.lab import as_environment
from tests.integration.worker.pool_worker import wait_until

BEAT = ("-A", "services.beat.app", "beat", "-n", "celerybeat@test")
HURT_FOR_S = 2
RECOVERY_S = 10
"""Seconds from Redis' return to the next sweep; it takes an interval (0.5 here) to 2.5."""


def _environment(fragile: FragileRedis) -> dict[str, str]:
    return as_environment(fragile.settings, "REDIS_") | {
        "CELERY_SWEEP_INTERVAL_S": "0.5",
        "LOGFIRE_LOG_FORMAT": "text",
    }


def _sweeps(fragile: FragileRedis) -> list[str]:
    """The tasks that wait in the default queue."""
    with fragile.client() as client:
        items = client.lrange(QueueName.DEFAULT, 0, -1)
    return [json.loads(item)["headers"]["task"] for item in items]


def _wait_for_sweep(fragile: FragileRedis) -> float:
    """Seconds until beat sends."""
    started_s = time.monotonic()
    with fragile.client() as client:
        client.delete(QueueName.DEFAULT)
    wait_until(lambda: "runs.sweep" in _sweeps(fragile), timeout_s=60)
    return time.monotonic() - started_s


def _ping(fragile: FragileRedis) -> dict[str, dict[str, str]] | None:
    """What beat answers to a health check."""
    app = create_celery_app(fragile.settings, CelerySettings())
    try:
        return app.control.inspect(destination=["celerybeat@test"], timeout=2).ping()
    finally:
        app.close()


def test_a_running_beat_goes_on(fragile: FragileRedis, tmp_path: Path) -> None:
    """In every state it lives, and soon after it sends sweeps and answers pings again."""
    log = tmp_path / "beat.log"
    with celery_process(*BEAT, log=log, environment=_environment(fragile)) as beat:
        _wait_for_sweep(fragile)
        for name, state in STATES.items():
            state.hurt(fragile)
            time.sleep(HURT_FOR_S)
            state.heal(fragile)
            took = _wait_for_sweep(fragile)

            assert took < RECOVERY_S, name
            assert beat.poll() is None, log.read_text()
        wait_until(lambda: _ping(fragile), timeout_s=20)

    assert log.read_text().count("beat: nothing goes through") <= len(STATES)


def test_beat_starts_while_redis_is_frozen(fragile: FragileRedis, tmp_path: Path) -> None:
    """It waits, and sends sweeps once Redis is well."""
    log = tmp_path / "beat.log"
    fragile.freeze()
    with celery_process(*BEAT, log=log, environment=_environment(fragile)) as beat:
        wait_until(lambda: "nothing goes through" in log.read_text(), timeout_s=30)
        time.sleep(HURT_FOR_S)
        fragile.thaw()
        took = _wait_for_sweep(fragile)

        assert took < RECOVERY_S
        assert beat.poll() is None


def test_two_beats_and_no_worker_do_no_harm(fragile: FragileRedis, tmp_path: Path) -> None:
    """Sweeps that nobody takes do not pile up, however many beats there are."""
    environment = _environment(fragile) | {"CELERY_SWEEP_INTERVAL_S": "0.1"}
    logs = tmp_path / "first.log", tmp_path / "second.log"
    with (
        celery_process(*BEAT, log=logs[0], environment=environment) as first,
        celery_process(*BEAT, log=logs[1], environment=environment) as second,
    ):
        wait_until(lambda: len(_sweeps(fragile)) >= BACKLOG, timeout_s=30)
        time.sleep(2)

        assert len(_sweeps(fragile)) <= BACKLOG + 1
        assert (None, None) == (first.poll(), second.poll())
