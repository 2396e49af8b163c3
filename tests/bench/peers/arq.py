"""arq on Redis, not durable: one process, up to a thousand tasks at once, results kept."""

from collections.abc import Mapping

from tests.bench.peers import backlog, holding
from tests.bench.peers.peer import APPS, on_redis

TASKS = 10_000


def drain(*, count: int = TASKS) -> Mapping[str, float]:
    """The backlog."""
    with on_redis("arq") as bench:
        return backlog.drain(bench, "arq", f"{bench.app}.Worker", count=count)


def enqueue(*, count: int = TASKS) -> Mapping[str, float]:
    """Only enqueue."""
    with on_redis("arq") as bench:
        return backlog.enqueue(bench, count=count)


def hold_calls(*, count: int = holding.CALLS) -> Mapping[str, float]:
    """A thousand one-second calls to Claude in one process; see holding.hold for the values."""
    with holding.with_claude("arq") as bench:
        app = f"{APPS}.arq_calls_app"
        return holding.hold(bench, "arq", f"{app}.Worker", app=app, count=count)
