"""Tasks of rq; as a command, enqueue as many as asked."""

from functools import cache

from redis import Redis
from rq import Queue

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

make_tick = cache(make_tick)


def noop(number: int, text: str) -> int:
    """Do nothing."""
    make_tick()()
    return number


if __name__ == "__main__":
    queue = Queue(connection=Redis.from_url(work.setting("BENCH_REDIS")))
    began_s = work.begin()
    for each in range(work.count()):
        # By name: a module that is run has another one.
        queue.enqueue("tests.bench.peers.apps.rq_app.noop", **work.arguments(each))
    work.report(began_s)
