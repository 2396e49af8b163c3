"""Calls to Claude as tasks of taskiq; as a command, enqueue as many as asked and wait for all results."""

import asyncio

from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from tests.bench.peers.apps import work

URL = work.setting("BENCH_REDIS")
broker = ListQueueBroker(url=URL).with_result_backend(
    RedisAsyncResultBackend(redis_url=URL, result_ex_time=3600)
)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def start(state: TaskiqState) -> None:
    """One client for the process."""
    state.claude = work.make_client()


@broker.task("call")
async def call(number: int, text: str) -> str:
    """Make one call."""
    return await work.ask(broker.state.claude, number, text)


async def main() -> None:
    """Enqueue, then wait."""
    await broker.startup()
    began_s = work.begin()
    tasks = [await call.kiq(**work.arguments(number)) for number in range(work.count())]
    for task in tasks:
        result = await task.wait_result(check_interval=0.02, timeout=120)
        result.raise_for_error()
    work.report(began_s)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
