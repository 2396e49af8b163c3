"""taskiq on Redis, not durable: two worker processes, results kept."""

from collections.abc import Mapping

from tests.bench.peers import backlog, holding
from tests.bench.peers.peer import APPS, on_redis

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


def hold_calls(*, count: int = holding.CALLS) -> Mapping[str, float]:
    """A thousand one-second calls to Claude in one process; see holding.hold for the values."""
    with holding.with_claude("taskiq") as bench:
        app = f"{APPS}.taskiq_calls_app"
        options = ("--workers=1", "--max-async-tasks=1000", "--log-level=WARNING")
        return holding.hold(
            bench, "taskiq", "worker", f"{app}:broker", *options, app=app, count=count
        )
