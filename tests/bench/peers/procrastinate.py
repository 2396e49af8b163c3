"""procrastinate on PostgreSQL, durable: one process, a hundred tasks at once."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_postgres

TASKS = 3_000


def drain(*, count: int = TASKS) -> Mapping[str, float]:
    """The backlog."""
    with on_postgres("procrastinate") as bench:
        options = ("--concurrency=100",)
        command = (
            "procrastinate",
            "--log-level=warning",
            f"--app={bench.app}.app",
            "worker",
            *options,
        )
        return backlog.drain(bench, *command, count=count)


def enqueue(*, count: int = 10_000) -> Mapping[str, float]:
    """Only enqueue."""
    with on_postgres("procrastinate") as bench:
        return backlog.enqueue(bench, count=count)
