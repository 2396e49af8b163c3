"""The asyncio pool under load: nothing lost, nothing left behind, a thousand at once."""

import time
from collections.abc import Callable

import pytest

from tests.integration.worker.pool_worker import PoolWorker, wait_until

Start = Callable[..., PoolWorker]
TROUBLE = ("ERROR", "CRITICAL", "Traceback")


def settled(worker: PoolWorker, *, timeout_s: float = 60) -> bool:
    """Wait until no message is queued or unacknowledged."""
    wait_until(
        lambda: worker.queued() == worker.unacked() == 0,
        timeout_s=timeout_s,
        what=lambda: f"{worker.queued()} queued, {worker.unacked()} unacked",
    )
    return True


def stored_results(worker: PoolWorker) -> int:
    """How many tasks have a stored success."""
    keys = list(worker.redis.scan_iter("celery-task-meta-*", count=1000))
    return sum('"SUCCESS"' in meta for meta in worker.redis.mget(keys) if meta)


@pytest.mark.parametrize("events", ["0", "1"])
def test_no_ack_is_lost_among_thousands(start_worker: Start, events: str) -> None:
    """2,000 short tasks with late acks while remote control looks on: all acked, log clean."""
    worker = start_worker(concurrency="200", POOL_APP_EVENTS=events)
    kinds = ["add", "add_now", "add_by_waiting"]

    for number in range(2000):
        worker.send(kinds[number % 3], number, 1)
        if number % 200 == 0:
            worker.app.control.inspect([worker.name], timeout=2).active()
    settled(worker)

    assert stored_results(worker) == 2000
    assert worker.broker.zcard("unacked_index") == 0
    assert not [word for word in TROUBLE if word in worker.output()]
    stats = worker.app.control.inspect([worker.name], timeout=2).stats()[worker.name]
    assert stats["pool"]["running"] == 0
    assert sum(stats["total"].values()) == 2000


def test_a_thousand_tasks_wait_at_the_same_time(start_worker: Start) -> None:
    """None of a thousand tasks ends before all of them run, in one process."""
    worker = start_worker(concurrency="1000", POOL_APP_PREFETCH="1")

    results = [worker.send("meet", "here", 1000) for _ in range(1000)]

    assert results[-1].get(timeout_s=60) == 1000
    settled(worker)
    assert stored_results(worker) == 1000


def test_memory_does_not_grow(start_worker: Start) -> None:
    """A thousand tasks more, of all fates, leave no job, no greenlet and no memory behind."""
    worker = start_worker(concurrency="200")

    def run(rounds: int) -> dict[str, int]:
        for _ in range(rounds):
            for _ in range(6):
                worker.send("sleep", 0.01)
                worker.send("fail", "no")
                worker.send("add_by_waiting", 1, 2)
            worker.send("return_after_cancellation")
            worker.send("run_into_soft_limit")
        settled(worker)
        time.sleep(0.5)
        leftovers: dict[str, int] = worker.call("count_leftovers")
        return leftovers

    run(10)
    first, second = run(50), run(50)

    assert (second["jobs"], second["greenlets"]) == (1, 1)  # the one that counts
    assert second["resident_kb"] - first["resident_kb"] < 8_000
