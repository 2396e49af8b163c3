"""arq on Redis, not durable: one process, up to a thousand tasks at once, results kept."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_redis

TASKS = 10_000


def drain(*, count: int = TASKS) -> Mapping[str, float]:
    """The backlog."""
    with on_redis("arq") as bench:
        return backlog.drain(bench, "arq", f"{bench.app}.Worker", count=count)


def enqueue(*, count: int = TASKS) -> Mapping[str, float]:
    """Only enqueue."""
    with on_redis("arq") as bench:
        return backlog.enqueue(bench, count=count)
