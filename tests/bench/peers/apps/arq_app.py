"""Tasks of arq; as a command, enqueue as many as asked."""

import asyncio
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

tick = make_tick()
settings = RedisSettings.from_dsn(work.setting("BENCH_REDIS"))


async def noop(_context: dict[str, Any], number: int, text: str) -> int:
    """Do nothing."""
    tick()
    return number


async def start(_context: dict[str, Any]) -> None:
    """Before the first task."""
    work.be_quiet("arq.worker")


class Worker:
    """One process that holds up to a thousand tasks."""

    functions: ClassVar = [noop]
    on_startup = start
    redis_settings = settings
    max_jobs = 1000
    job_timeout = 600


async def enqueue() -> None:
    """Enqueue, one after the other."""
    pool = await create_pool(settings)
    began_s = work.begin()
    for number in range(work.count()):
        await pool.enqueue_job("noop", **work.arguments(number))
    work.report(began_s)
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(enqueue())
