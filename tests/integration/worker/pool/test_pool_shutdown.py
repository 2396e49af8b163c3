"""How a worker on the asyncio pool stops: what is finished, what is handed back, how long it takes."""

import signal
import time
from collections.abc import Callable

from tests.integration.worker.pool_worker import PoolWorker, wait_until

Start = Callable[..., PoolWorker]


def start_with_running_tasks(
    start_worker: Start, short_s: float = 2, **options: str
) -> tuple[PoolWorker, str, str]:
    """A worker with a short task and one that takes a minute, both running; with their ids."""
    worker = start_worker(**options)
    short, long = worker.send("sleep", short_s, "finished"), worker.send("note_cancellation")
    worker.wait_for_record(f"started {long.id}")
    wait_until(lambda: short.state == "STARTED", timeout_s=5)
    return worker, short.id, long.id


def state_of(worker: PoolWorker, task_id: str) -> str:
    """The stored state of a task."""
    return str(worker.reader.backend.get_task_meta(task_id)["status"])


def test_warm_shutdown_finishes_what_runs(start_worker: Start) -> None:
    """SIGTERM: running tasks finish and are acknowledged; the exit status is 0."""
    worker = start_worker()
    results = [worker.send("sleep", 1.5, number) for number in range(50)]
    wait_until(lambda: all(r.state == "STARTED" for r in results), timeout_s=10)

    assert worker.stop() == 0
    assert [result.get(timeout_s=1) for result in results] == list(range(50))
    assert worker.unacked() == worker.queued() == 0


def test_warm_shutdown_gives_reserved_tasks_back(start_worker: Start) -> None:
    """What was prefetched and not started is in the queue again."""
    worker = start_worker(concurrency="1", POOL_APP_PREFETCH="4")
    running = worker.send("sleep", 1.5, "finished")
    wait_until(lambda: running.state == "STARTED", timeout_s=5)
    for _ in range(3):
        worker.send("note_cancellation")
    wait_until(lambda: worker.unacked() == 4, timeout_s=5)

    assert worker.stop() == 0
    assert running.get(timeout_s=1) == "finished"
    assert worker.recorded() == []
    assert (worker.unacked(), worker.queued()) == (0, 3)


def test_warm_shutdown_is_bounded_by_the_grace_period(start_worker: Start) -> None:
    """What outlives the grace period is cancelled, not failed, and its message is given back."""
    worker, short, long = start_with_running_tasks(start_worker, POOL_APP_GRACE_S="3")

    begun = time.monotonic()
    assert worker.stop() == 0

    assert time.monotonic() - begun < 8
    assert state_of(worker, short) == "SUCCESS"
    assert state_of(worker, long) == "STARTED"
    assert f"cancelled {long}" in worker.recorded()
    assert (worker.unacked(), worker.queued()) == (0, 1)


def test_a_task_that_ignores_cancellation_cannot_hold_up_the_stop(start_worker: Start) -> None:
    """It is abandoned after cleanup_s."""
    worker = start_worker(POOL_APP_GRACE_S="0.5")
    hostile = worker.send("swallow_for_ever")
    wait_until(lambda: hostile.state == "STARTED", timeout_s=5)

    begun = time.monotonic()
    assert worker.stop() == 0

    assert time.monotonic() - begun < 8
    assert "is abandoned" in worker.output()
    assert worker.queued() == 1


def test_a_blocked_loop_cannot_hold_up_the_stop_for_ever(start_worker: Start) -> None:
    """The worker gives up after its bounds and ends, saying where the loop was stuck."""
    worker = start_worker(POOL_APP_GRACE_S="0.5", POOL_APP_CLEANUP_S="0.5")
    worker.send("block_loop", 60)
    wait_until(lambda: "the loop is blocked" in worker.output(), timeout_s=10)

    begun = time.monotonic()
    worker.stop()

    assert time.monotonic() - begun < 15
    assert "is abandoned" in worker.output()


def test_a_second_signal_hurries_a_warm_shutdown(start_worker: Start) -> None:
    """SIGQUIT after SIGTERM cancels what runs; the messages are given back."""
    worker, _, long = start_with_running_tasks(start_worker, 30)
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.output(), timeout_s=5)
    time.sleep(0.3)

    begun = time.monotonic()
    worker.stop(signal.SIGQUIT)

    assert time.monotonic() - begun < 5
    assert f"cancelled {long}" in worker.recorded()
    assert (worker.unacked(), worker.queued()) == (0, 2)


def test_cold_shutdown_cancels_at_once(start_worker: Start) -> None:
    """SIGQUIT: running tasks are cancelled and given back."""
    worker, short, long = start_with_running_tasks(start_worker, 30)

    begun = time.monotonic()
    worker.stop(signal.SIGQUIT)

    assert time.monotonic() - begun < 5
    assert f"cancelled {long}" in worker.recorded()
    assert state_of(worker, short) == "STARTED"
    assert (worker.unacked(), worker.queued()) == (0, 2)


def test_remapped_sigterm_with_soft_shutdown_finishes_short_tasks(start_worker: Start) -> None:
    """REMAP_SIGTERM=SIGQUIT: within the soft timeout short tasks end, the others are given back."""
    worker, short, long = start_with_running_tasks(
        start_worker, REMAP_SIGTERM="SIGQUIT", POOL_APP_SOFT_SHUTDOWN_S="4"
    )

    worker.stop(signal.SIGTERM)

    assert state_of(worker, short) == "SUCCESS"
    assert f"cancelled {long}" in worker.recorded()
    assert (worker.unacked(), worker.queued()) == (0, 1)


def test_a_task_given_back_is_finished_by_the_next_worker(start_worker: Start) -> None:
    """What one worker gave back, another one finishes."""
    worker = start_worker()
    result = worker.send("sleep", 3, "finished")
    wait_until(lambda: result.state == "STARTED", timeout_s=5)
    worker.stop(signal.SIGQUIT)
    assert result.state == "STARTED"

    start_worker()

    assert result.get(timeout_s=15) == "finished"


def test_hooks_take_part_in_a_warm_shutdown(start_worker: Start) -> None:
    """Drain hooks get the grace, then background jobs end, then resources close."""
    worker = start_worker(POOL_APP_HOOKS="1", POOL_APP_GRACE_S="7")
    worker.wait_for_record("job-started")

    assert worker.stop() == 0
    assert worker.recorded() == ["job-started", "drain 7.0", "drained", "job-ended", "closed"]


def test_hooks_have_no_grace_at_a_cold_shutdown(start_worker: Start) -> None:
    """SIGQUIT: the drain hook is told that it has no time, and still may release what it holds."""
    worker = start_worker(POOL_APP_HOOKS="1")
    worker.wait_for_record("job-started")

    worker.stop(signal.SIGQUIT)

    assert worker.recorded() == ["job-started", "drain 0", "drained", "job-ended", "closed"]


def test_a_task_can_stop_the_worker(start_worker: Start) -> None:
    """WorkerShutdown ends it warmly: neighbours finish."""
    worker = start_worker()
    neighbour = worker.send("sleep", 2, "finished")
    wait_until(lambda: neighbour.state == "STARTED", timeout_s=5)

    worker.send("raise_kind", "WorkerShutdown")

    assert worker.process.wait(15) == 0
    assert neighbour.get(timeout_s=1) == "finished"


def test_remote_shutdown_is_warm(start_worker: Start) -> None:
    """`celery control shutdown` finishes what runs."""
    worker = start_worker()
    result = worker.send("sleep", 1.5, "finished")
    wait_until(lambda: result.state == "STARTED", timeout_s=5)

    worker.app.control.shutdown(destination=[worker.name])

    assert worker.process.wait(15) == 0
    assert result.get(timeout_s=1) == "finished"


def test_early_acknowledged_tasks_are_cancelled_with_a_word(start_worker: Start) -> None:
    """Their messages are gone, so the log names what was cut off."""
    worker = start_worker(POOL_APP_GRACE_S="0.5")
    result = worker.send("note_cancellation_early_ack")
    worker.wait_for_record(f"started {result.id}")

    assert worker.stop() == 0
    assert f"cancelled {result.id}" in worker.recorded()
    assert result.id in worker.output().split("Warm shutdown")[1]
