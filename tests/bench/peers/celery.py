"""Celery on Redis, not durable, results kept: its pools, and the settings that a careful project takes."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_redis

TASKS = 5_000


def drain(
    *options: str, settings: str = "default", pool: str = "prefork", count: int = TASKS
) -> Mapping[str, float]:
    """The backlog.

    Args:
        options: More for the worker.
        settings: `careful`: acknowledged late, no prefetching, children replaced after 100 tasks.
        pool: Celery's name of it.
        count: Tasks.
    """
    with on_redis("celery", BENCH_SETTINGS=settings) as bench:
        worker = ("celery", "--quiet", f"--app={bench.app}", "worker", f"--pool={pool}")
        quiet = ("--without-gossip", "--without-mingle", "--loglevel=WARNING")
        return backlog.drain(bench, *worker, *quiet, *options, count=count)


def drain_careful() -> Mapping[str, float]:
    """Two processes, the settings that a careful project takes."""
    return drain("--concurrency=2", settings="careful", count=TASKS // 2)


def drain_prefork() -> Mapping[str, float]:
    """Two processes, Celery's own settings."""
    return drain("--concurrency=2")


def drain_threads() -> Mapping[str, float]:
    """One process with eight threads."""
    return drain("--concurrency=8", pool="threads")


def drain_gevent() -> Mapping[str, float]:
    """One process with a hundred greenlets."""
    return drain("--concurrency=100", pool="gevent", count=TASKS // 2)


def enqueue(*, count: int = TASKS) -> Mapping[str, float]:
    """Only enqueue."""
    with on_redis("celery") as bench:
        return backlog.enqueue(bench, count=count)
