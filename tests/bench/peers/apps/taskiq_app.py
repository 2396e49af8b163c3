"""Tasks of taskiq; as a command, enqueue as many as asked."""

import asyncio

from taskiq import AsyncBroker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

URL = work.setting("BENCH_REDIS")
kinds = {"list": ListQueueBroker, "stream": RedisStreamBroker}
broker: AsyncBroker = kinds[work.setting("BENCH_QUEUE", "list")](url=URL).with_result_backend(
    RedisAsyncResultBackend(redis_url=URL, result_ex_time=3600)
)
tick = make_tick()


@broker.task("noop")  # a module that is run has another name
async def noop(number: int, text: str) -> int:
    """Do nothing."""
    tick()
    return number


async def enqueue() -> None:
    """Enqueue, one after the other."""
    await broker.startup()
    began_s = work.begin()
    for number in range(work.count()):
        await noop.kiq(**work.arguments(number))
    work.report(began_s)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(enqueue())
