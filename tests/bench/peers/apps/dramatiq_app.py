"""Tasks of dramatiq; as a command, enqueue as many as asked."""

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

URL = work.setting("BENCH_REDIS")
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)
tick = make_tick()


@dramatiq.actor(store_results=True)
def noop(number: int, text: str) -> int:
    """Do nothing."""
    tick()
    return number


if __name__ == "__main__":
    began_s = work.begin()
    for each in range(work.count()):
        noop.send(**work.arguments(each))
    work.report(began_s)
