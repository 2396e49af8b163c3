"""dramatiq on Redis, not durable: two processes with eight threads each, results kept."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_redis

TASKS = 20_000


def drain(*, count: int = TASKS) -> Mapping[str, float]:
    """The backlog."""
    with on_redis("dramatiq") as bench:
        options = ("--processes=2", "--threads=8")
        return backlog.drain(bench, "dramatiq", bench.app, *options, count=count)


def enqueue(*, count: int = TASKS) -> Mapping[str, float]:
    """Only enqueue."""
    with on_redis("dramatiq") as bench:
        return backlog.enqueue(bench, count=count)
