"""What a task may do in the asyncio pool, seen through a real worker."""

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from tests.integration.worker.pool_worker import PoolWorker, wait_until


@pytest.mark.parametrize("task", ["add", "add_now", "add_by_waiting"])
def test_tasks_of_every_kind_return_their_result(worker: PoolWorker, task: str) -> None:
    """Coroutines, plain functions and functions that wait give their result to the caller."""
    assert worker.call(task, 3, 4) == 7


def test_a_task_that_raises_fails_with_its_own_error(worker: PoolWorker) -> None:
    """The caller gets the exception, with the traceback of the coroutine."""
    result = worker.send("fail", "so it is")

    with pytest.raises(ValueError, match="so it is"):
        result.get(timeout_s=10)
    assert "async def" not in result.meta["traceback"]
    assert "in fail" in result.meta["traceback"]


@pytest.mark.parametrize(
    ("task", "arguments", "signals"),
    [
        ("add", (1, 2), ["task_prerun", "task_success", "task_postrun"]),
        ("fail", ("no",), ["task_prerun", "task_failure", "task_postrun"]),
        ("run_into_time_limit", (), ["task_prerun", "task_postrun", "task_failure"]),
        ("catch_soft_limit", (), ["task_prerun", "task_success", "task_postrun"]),
    ],
)
def test_signals_are_sent_once_each(
    worker: PoolWorker, task: str, arguments: tuple[object, ...], signals: list[str]
) -> None:
    """Receivers see the same signals as in any other pool, none twice."""
    result = worker.send(task, *arguments)
    result.get(timeout_s=10, propagate=False)

    def sent() -> list[str]:
        facts = [fact.split() for fact in worker.recorded()]
        return [name for name, task_id in facts if task_id == result.id and "task_" in name]

    wait_until(lambda: len(sent()) >= len(signals), timeout_s=5, what=lambda: str(sent()))
    assert sorted(sent()) == sorted(signals)


def test_autoretry_backs_off_and_succeeds(worker: PoolWorker) -> None:
    """autoretry_for with retry_backoff works for coroutines: a second, then two."""
    result = worker.send("fail_until", "backoff", 3)

    assert result.get(timeout_s=15) == 2
    first, second, third = map(float, worker.redis.lrange("backoff", 0, -1))
    assert second - first >= 0.9
    assert third - second >= 1.9
    assert worker.recorded().count(f"task_retry {result.id}") == 2


def test_autoretry_gives_up_after_max_retries(worker: PoolWorker) -> None:
    """The last error is the result."""
    with pytest.raises(ConnectionError):
        worker.call("fail_until", "give-up", 99)
    assert worker.redis.llen("give-up") == 3


def test_self_request_and_self_retry_work_inside_a_coroutine(worker: PoolWorker) -> None:
    """Celery's own request stack follows the coroutine."""
    result = worker.send("retry_by_hand")

    assert result.get(timeout_s=10) == f"retried as {result.id}"


def test_each_task_has_its_own_context(worker: PoolWorker) -> None:
    """Request and span stay each task's own over waits, also when twenty run at once."""
    results = [worker.send("describe_context") for _ in range(20)]

    for result in results:
        seen = result.get(timeout_s=10)
        assert seen["request"] == result.id
        assert seen["expected"] == seen["before"] == seen["after"] == seen["inner_parent"]
        assert seen["inner"] == seen["in_child"]
    assert len({result.meta["result"]["expected"] for result in results}) == 20


def test_the_soft_limit_is_catchable_inside_the_coroutine(worker: PoolWorker) -> None:
    """SoftTimeLimitExceeded comes out of the await, and a task group's children are cancelled."""
    assert worker.call("catch_soft_limit") == "caught, child cancelled: True"


def test_the_soft_limit_is_catchable_around_wait_for(worker: PoolWorker) -> None:
    """A plain function catches it as in any other pool."""
    assert worker.call("catch_soft_limit_outside") == "caught"


def test_an_uncaught_soft_limit_fails_the_task(worker: PoolWorker) -> None:
    """The result is Celery's own exception, not our subclass."""
    result = worker.send("run_into_soft_limit")

    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout_s=10)
    assert type(result.meta["result"]) is SoftTimeLimitExceeded


def test_the_time_limit_ends_the_task_and_lets_it_tidy_up(worker: PoolWorker) -> None:
    """The result is TimeLimitExceeded, and `finally` blocks ran."""
    result = worker.send("run_into_time_limit")

    with pytest.raises(TimeLimitExceeded):
        result.get(timeout_s=10)
    worker.wait_for_record(f"cleaned-up {result.id}")


@pytest.mark.parametrize(
    "task",
    [
        "ignore_soft_limit",
        "ignore_everything",
        "return_after_cancellation",
        "swallow_and_wait_again",
        "swallow_in_a_loop",
    ],
)
def test_no_task_survives_its_time_limit(worker: PoolWorker, task: str) -> None:
    """A body that swallows limits and cancellations is ended, and its late result is not stored."""
    result = worker.send(task)

    with pytest.raises(TimeLimitExceeded):
        result.get(timeout_s=10)
    wait_until(lambda: _is_idle(worker), timeout_s=5, what=worker.output)
    assert isinstance(result.meta["result"], TimeLimitExceeded)


def test_awaiting_something_cancelled_is_a_failure(worker: PoolWorker) -> None:
    """Only Celery cancels tasks: any other cancellation is an error of the task."""
    result = worker.send("await_cancelled_future")

    result.get(timeout_s=10, propagate=False)
    assert result.state == "FAILURE"
    assert "CancelledError" in repr(result.meta["result"])


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_a_task_cannot_end_the_worker(worker: PoolWorker, kind: str) -> None:
    """It fails as if its process had died, and the others never notice."""
    neighbour = worker.send("sleep", 0.5, "unhurt")

    with pytest.raises(WorkerLostError, match=kind):
        worker.call("raise_kind", kind)
    assert neighbour.get(timeout_s=10) == "unhurt"


def test_exits_from_plain_code_and_background_tasks_are_contained(worker: PoolWorker) -> None:
    """SystemExit in a plain body, or in a background task of asyncio, ends nothing else."""
    neighbour = worker.send("sleep", 0.5, "unhurt")

    with pytest.raises(WorkerLostError):
        worker.call("raise_exit_at_once")
    assert worker.call("leave_from_background") is None
    assert neighbour.get(timeout_s=10) == "unhurt"
    assert "tried to end the process" in worker.output()


def test_ignore_and_reject_keep_celerys_meaning(worker: PoolWorker) -> None:
    """Ignore leaves no result, Reject a failure; both settle the message."""
    ignored, rejected = worker.send("raise_kind", "Ignore"), worker.send("raise_kind", "Reject")

    assert rejected.get(timeout_s=10, propagate=False).args[0] == "no"
    wait_until(lambda: _is_idle(worker), timeout_s=5, what=worker.output)
    assert ignored.state == "STARTED"
    assert worker.unacked() == 0


def test_an_error_in_one_task_does_not_hurt_the_others(worker: PoolWorker) -> None:
    """Fifty failures among fifty others: each gets what it earned."""
    failing = [worker.send("fail", "no") for _ in range(50)]
    working = [worker.send("sleep", 0.1, number) for number in range(50)]

    assert [result.get(timeout_s=15) for result in working] == list(range(50))
    assert {type(r.get(timeout_s=15, propagate=False)) for r in failing} == {ValueError}


def test_a_callback_that_raises_is_logged_and_harms_nothing(worker: PoolWorker) -> None:
    """Celery's on_failure raises again for a MemoryError; the worker goes on."""
    with pytest.raises(MemoryError):
        worker.call("raise_kind", "MemoryError")

    assert worker.call("add", 1, 1) == 2
    assert "callback" in worker.output()


def test_blocking_work_is_bounded_by_max_threads(worker: PoolWorker) -> None:
    """to_thread uses at most max_threads (4 here) at once, and meanwhile the loop turns."""
    results = [worker.send("block_thread", 0.3) for _ in range(10)]

    assert worker.call("add", 1, 1, timeout_s=2) == 2
    assert max(result.get(timeout_s=10) for result in results) == 4


def test_a_blocked_loop_is_logged_with_the_culprit(worker: PoolWorker) -> None:
    """Nothing can interrupt blocking code, so its time limit has no effect until it returns."""
    result = worker.send("block_loop", 1.5)

    assert result.get(timeout_s=10) == "done"
    wait_until(lambda: "was blocked for 1" in worker.output(), timeout_s=5, what=worker.output)
    assert "in block_loop" in worker.output()


def _is_idle(worker: PoolWorker) -> bool:
    pool = worker.app.control.inspect([worker.name], timeout=1).stats()[worker.name]["pool"]
    return int(pool["running"]) == 0
