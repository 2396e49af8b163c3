"""DBOS on PostgreSQL, durable: one process, workflows with one step."""

from collections.abc import Mapping

from tests.bench.peers import backlog
from tests.bench.peers.peer import on_postgres

TASKS = 2_000


def drain(*, count: int = TASKS) -> Mapping[str, float]:
    """The backlog, from a queue of its own."""
    with on_postgres("dbos") as bench:
        return backlog.drain(bench, bench.app, "worker", count=count)


def execute(*, count: int = TASKS) -> Mapping[str, float]:
    """Without a queue: the process starts the workflows itself, a hundred at a time."""
    with on_postgres("dbos") as bench, bench.process(bench.app, "direct", str(count)) as process:
        return backlog.watch(bench, process, count=count)


def enqueue(*, count: int = TASKS) -> Mapping[str, float]:
    """Only enqueue."""
    with on_postgres("dbos") as bench:
        return backlog.enqueue(bench, count=count)
