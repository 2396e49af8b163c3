"""taskiq on Redis, not durable: two worker processes, results kept."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_redis

TASKS = 20_000


def drain(queue: str = "list", *, count: int = TASKS) -> Mapping[str, float]:
    """The backlog; `list` loses the tasks of a worker that dies, `stream` acknowledges."""
    with on_redis("taskiq", BENCH_QUEUE=queue) as bench:
        app = f"{bench.app}:broker"
        options = ("--workers=2", "--log-level=WARNING")
        return backlog.drain(bench, "taskiq", "worker", app, *options, count=count)


def enqueue(*, count: int = TASKS) -> Mapping[str, float]:
    """Only enqueue."""
    with on_redis("taskiq") as bench:
        return backlog.enqueue(bench, count=count)
