"""Calls to Claude as tasks of arq; as a command, enqueue as many as asked and wait for all results."""

import asyncio
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from tests.bench.peers.apps import work

settings = RedisSettings.from_dsn(work.setting("BENCH_REDIS"))


async def call(context: dict[str, Any], number: int, text: str) -> str:
    """Make one call."""
    return await work.ask(context["claude"], number, text)


async def start(context: dict[str, Any]) -> None:
    """One client for the process."""
    work.be_quiet("arq.worker")
    context["claude"] = work.make_client()


class Worker:
    """One process that holds up to a thousand tasks."""

    functions: ClassVar = [call]
    on_startup = start
    redis_settings = settings
    max_jobs = 1000
    poll_delay = 0.01
    """Half a second by default, which is not what is to be measured."""


async def main() -> None:
    """Enqueue, then wait."""
    pool = await create_pool(settings)
    began_s = work.begin()
    jobs = [
        await pool.enqueue_job("call", **work.arguments(number)) for number in range(work.count())
    ]
    for job in jobs:
        assert job
        await job.result(timeout=120, poll_delay=0.02)
    work.report(began_s)
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
