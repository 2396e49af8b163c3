"""Tasks of procrastinate; as a command, make its tables and enqueue as many as asked."""

import asyncio

from procrastinate import App, PsycopgConnector

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

app = App(connector=PsycopgConnector(conninfo=work.setting("BENCH_POSTGRES")))
tick = make_tick()


@app.task(name="noop")
async def noop(number: int, text: str) -> int:
    """Do nothing."""
    tick()
    return number


async def enqueue() -> None:
    """Enqueue a thousand at a time, the fastest way it has."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        everything = [work.arguments(number) for number in range(work.count())]
        began_s = work.begin()
        for begin in range(0, len(everything), 1000):
            await noop.batch_defer_async(*everything[begin : begin + 1000])
        work.report(began_s)


if __name__ == "__main__":
    asyncio.run(enqueue())
