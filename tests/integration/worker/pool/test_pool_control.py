"""Remote control of a worker on the asyncio pool: revoke, inspect, and how many run at once."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from tests.integration.worker.pool_worker import PoolWorker, wait_until


def inspect(worker: PoolWorker, method: str) -> Any:
    """Ask the worker; the method is one of Celery's inspect commands."""
    return getattr(worker.app.control.inspect([worker.name], timeout=2), method)()[worker.name]


def test_a_running_task_can_be_terminated(worker: PoolWorker) -> None:
    """revoke(terminate=True) cancels the coroutine; the state is REVOKED, the signal is sent."""
    result = worker.send("note_cancellation")
    worker.wait_for_record(f"started {result.id}")

    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError):
        result.get(timeout_s=10)
    worker.wait_for_record(f"cancelled {result.id}")
    worker.wait_for_record(f"task_revoked {result.id}")
    assert worker.recorded().count(f"task_failure {result.id}") == 0
    assert result.state == "REVOKED"
    assert worker.call("add", 1, 1) == 2


def test_a_revoked_task_never_starts(worker: PoolWorker) -> None:
    """A task revoked before its message arrives is discarded."""
    task_id = "11111111-1111-1111-1111-111111111111"
    worker.app.control.revoke(task_id, destination=[worker.name], reply=True, timeout=2)

    result = worker.send("note_cancellation", task_id=task_id)

    with pytest.raises(TaskRevokedError):
        result.get(timeout_s=10)
    assert f"started {task_id}" not in worker.recorded()


def test_inspect_sees_active_and_registered_tasks(worker: PoolWorker) -> None:
    """Active names the running task with the process it runs in; ping and registered answer."""
    result = worker.send("sleep", 2)
    wait_until(lambda: result.state == "STARTED", timeout_s=5)

    active = {task["id"]: task for task in inspect(worker, "active")}

    assert active[result.id]["worker_pid"] == worker.process.pid
    assert active[result.id]["time_start"] == pytest.approx(time.time(), abs=30)  # noqa: TID251 - the wall clock is meant
    assert {"ok": "pong"} == inspect(worker, "ping")
    assert "tests.fakes.pool_app.sleep" in inspect(worker, "registered")
    assert result.get(timeout_s=10) is None


def test_stats_describe_the_pool(worker: PoolWorker) -> None:
    """Stats say which pool this is, its limits and how it is doing."""
    pool = inspect(worker, "stats")["pool"]

    assert pool["implementation"] == "services.worker.pool:TaskPool"
    assert pool["max-concurrency"] == 100
    assert pool["processes"] == [worker.process.pid]
    assert pool["threads"] == 4
    assert pool["loop-lag-s"] < 5


def test_no_more_than_the_limit_run_at_once(start_worker: Callable[..., PoolWorker]) -> None:
    """-c 3 with a prefetch of 4: three run, nine are reserved, one waits in the queue."""
    worker = start_worker(concurrency="3", POOL_APP_PREFETCH="4")
    results = [worker.send("count_at_once", 1) for _ in range(13)]
    wait_until(lambda: worker.queued() == 1, timeout_s=5)

    assert len(inspect(worker, "active")) == 3
    assert len(inspect(worker, "reserved")) == 9
    assert max(result.get(timeout_s=20) for result in results) == 3


def test_the_limit_grows_and_shrinks(start_worker: Callable[..., PoolWorker]) -> None:
    """pool_grow and pool_shrink change how many run at once, in both directions."""
    worker = start_worker(concurrency="2", POOL_APP_PREFETCH="10")
    control = worker.app.control

    control.pool_grow(3, [worker.name], reply=True, timeout=2)
    results = [worker.send("sleep", 0.8) for _ in range(10)]
    wait_until(lambda: len(inspect(worker, "active")) == 5, timeout_s=5)
    assert inspect(worker, "stats")["pool"]["max-concurrency"] == 5
    for result in results:
        result.get(timeout_s=20)

    control.pool_shrink(4, [worker.name], reply=True, timeout=2)
    results = [worker.send("count_at_once", 0.1) for _ in range(5)]
    assert [result.get(timeout_s=10) for result in results] == [1] * 5


def test_reserved_tasks_can_be_revoked(start_worker: Callable[..., PoolWorker]) -> None:
    """A task that waits in the worker for a slot never starts once it is revoked."""
    worker = start_worker(concurrency="1", POOL_APP_PREFETCH="4")
    running = worker.send("sleep", 1.5, "finished")
    wait_until(lambda: running.state == "STARTED", timeout_s=5)
    plain, terminated = worker.send("note_cancellation"), worker.send("note_cancellation")
    wait_until(lambda: len(inspect(worker, "reserved")) == 2, timeout_s=5)

    plain.revoke()
    terminated.revoke(terminate=True)

    assert running.get(timeout_s=10) == "finished"
    wait_until(lambda: worker.unacked() == 0, timeout_s=10, what=worker.output)
    assert {plain.state, terminated.state} == {"REVOKED"}
    assert not [fact for fact in worker.recorded() if fact.startswith("started")]
    assert worker.call("add", 1, 1) == 2


def test_a_broken_broker_connection_is_survived(start_worker: Callable[..., PoolWorker]) -> None:
    """Running tasks are cancelled and delivered again after reconnection; new ones work."""
    worker = start_worker(POOL_APP_SIGNALS="1")
    result = worker.send("note_cancellation")
    worker.wait_for_record(f"started {result.id}")

    for client in worker.broker.client_list():
        if client["cmd"] == "brpop" and client["db"] == str(worker.settings.db):
            worker.broker.client_kill_filter(_id=client["id"])

    worker.wait_for_record(f"cancelled {result.id}")
    started = f"started {result.id}"
    wait_until(lambda: worker.recorded().count(started) == 2, timeout_s=15, what=worker.output)
    assert worker.call("add", 1, 1) == 2
