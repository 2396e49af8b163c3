"""rq on Redis, not durable: two workers that fork for each task, as it is meant to run."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_redis

TASKS = 1_000
"""It is slow: it forks for each."""


def drain(*, count: int = TASKS) -> Mapping[str, float]:
    """The backlog."""
    with on_redis("rq") as bench:
        url = bench.environment["BENCH_REDIS"]
        options = ("--quiet", "--url", url, "default")
        return backlog.drain(
            bench, "rq.cli", "worker-pool", "--num-workers=2", *options, count=count
        )


def enqueue(*, count: int = 10_000) -> Mapping[str, float]:
    """Only enqueue."""
    with on_redis("rq") as bench:
        return backlog.enqueue(bench, count=count)
