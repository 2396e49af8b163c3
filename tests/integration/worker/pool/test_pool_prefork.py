"""Tasks written for the asyncio pool, executed by prefork children."""

from collections.abc import Callable

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from tests.integration.worker.pool_worker import PoolWorker

Start = Callable[..., PoolWorker]


def test_the_same_tasks_work_in_a_prefork_child(start_worker: Start) -> None:
    """Results, errors, retries and both time limits are as in the asyncio pool."""
    worker = start_worker(pool="prefork", concurrency="2")

    assert worker.call("add", 3, 4) == worker.call("add_by_waiting", 3, 4) == 7
    assert worker.call("retry_by_hand").startswith("retried as")
    assert worker.call("catch_soft_limit_outside") == "caught"
    with pytest.raises(ValueError, match="no"):
        worker.call("fail", "no")
    with pytest.raises(SoftTimeLimitExceeded):
        worker.call("run_into_soft_limit")
    with pytest.raises(TimeLimitExceeded):
        worker.call("ignore_soft_limit")
    assert worker.call("add", 1, 1) == 2


def test_a_prefork_child_has_one_loop_for_all_its_tasks(start_worker: Start) -> None:
    """Engines made on it stay usable from task to task, also after a soft time limit."""
    worker = start_worker(pool="prefork", concurrency="1")

    first = worker.call("locate")
    with pytest.raises(SoftTimeLimitExceeded):
        worker.call("run_into_soft_limit")

    assert worker.call("locate") == first


def test_close_hooks_run_when_a_prefork_child_ends(start_worker: Start) -> None:
    """What a child opened on its loop is closed there."""
    worker = start_worker(pool="prefork", concurrency="1", POOL_APP_HOOKS="1")
    worker.call("locate")

    assert worker.stop() == 0
    assert worker.recorded() == ["closed"]
