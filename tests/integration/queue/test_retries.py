"""The Task base class really retries."""

from itertools import pairwise
from pathlib import Path

import pytest
import redis
from celery import Celery

from config.celery import CelerySettings
from config.redis import RedisSettings
from services.core.queue.app import create_celery_app
from tests.integration.worker.celery_process import celery_process
from tests.integration.worker.lab import as_environment
from tests.integration.worker.pool_worker import wait_until

TASKS = 20
SLACK_S = 2.0
"""Seconds that a busy machine may add; Celery looks at its timers once a second."""


def test_a_failing_task_is_tried_again_ever_later(
    clean_redis: RedisSettings, tmp_path: Path
) -> None:
    """Three retries within bounds of 1, 2 and 4 s, spread by jitter, then FAILURE with the error."""
    app = create_celery_app(clean_redis, CelerySettings())
    log = tmp_path / "worker.log"
    arguments = ["-A", "tests.fakes.retry_app", "worker", "-P", "solo", "-Q", "default"]
    environment = as_environment(clean_redis, "REDIS_")
    with celery_process(*arguments, "-l", "INFO", log=log, environment=environment):
        wait_until(lambda: " ready." in log.read_text(), timeout_s=30)
        results = [app.send_task("retry_app.fail", queue="default") for _ in range(TASKS)]
        for result in results:
            with pytest.raises(ConnectionError, match="always"):
                result.get(timeout=40)
    delays = _delays(clean_redis, [result.id for result in results])
    app.close()

    assert {"FAILURE"} == {result.state for result in results}
    assert {3} == {len(of_one) for of_one in delays}
    for retry, bound_s in enumerate((1, 2, 4)):
        of_retry = [of_one[retry] for of_one in delays]
        assert max(of_retry) < bound_s + SLACK_S
    last = [of_one[2] for of_one in delays]
    assert max(last) > 1.9, "no retry waited long"
    assert max(last) - min(last) > 1, "no jitter"


def _delays(settings: RedisSettings, task_ids: list[str]) -> list[list[float]]:
    """Seconds between the tries of each task."""
    with redis.Redis.from_url(settings.result_url) as client:
        tries = [[float(at) for at in client.lrange(f"tries:{id_}", 0, -1)] for id_ in task_ids]
    return [[after - before for before, after in pairwise(of_one)] for of_one in tries]


def test_celery_knows_no_task_of_another_name(app: Celery) -> None:
    """Autoretry belongs to the class: its settings are not Celery settings, and would be ignored."""
    task = app.Task

    assert (Exception,) == task.autoretry_for
    assert (1, 300, True) == (task.retry_backoff, task.retry_backoff_max, task.retry_jitter)
    assert task.retry_backoff_max < app.conf.broker_transport_options["visibility_timeout"]
