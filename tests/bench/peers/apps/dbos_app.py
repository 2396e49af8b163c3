"""A workflow of DBOS with one step.

`COUNT` as a command enqueues so many, `worker` executes them, `direct COUNT` starts and executes.
"""

import asyncio
import sys
import threading

from dbos import DBOS, DBOSConfig

from tests.bench.peers.apps import work
from tests.bench.peers.ticks import make_tick

QUEUE = "bench"
config: DBOSConfig = {
    "name": "bench",
    "system_database_url": work.setting("BENCH_POSTGRES").replace(
        "postgresql:", "postgresql+psycopg:"
    ),
    "application_version": "1",
    "log_level": "WARNING",
}
tick = make_tick()


@DBOS.step()
async def do_nothing(number: int, text: str) -> int:
    """The step."""
    tick()
    return number


@DBOS.workflow(name="noop")
async def noop(number: int, text: str) -> int:
    """The workflow."""
    return await do_nothing(number, text)


async def enqueue(count: int) -> None:
    """Enqueue, one after the other."""
    queue = await DBOS.register_queue_async(QUEUE)
    began_s = work.begin()
    for number in range(count):
        await queue.enqueue_async(noop, **work.arguments(number))
    work.report(began_s)


async def execute(count: int) -> None:
    """Start all here, a hundred at a time, and wait for them."""
    for begin in range(0, count, 100):
        numbers = range(begin, min(begin + 100, count))
        await asyncio.gather(*(noop(**work.arguments(number)) for number in numbers))


def main() -> None:
    """Do as the command says."""
    command = sys.argv[1]
    DBOS(config=config)
    DBOS.listen_queues([QUEUE] if command == "worker" else [])
    DBOS.launch()
    if command == "worker":
        DBOS.register_queue(QUEUE)
        threading.Event().wait()
    elif command == "direct":
        asyncio.run(execute(int(sys.argv[2])))
        threading.Event().wait()  # to be measured, then ended
    else:
        asyncio.run(enqueue(int(command)))
        DBOS.destroy()


if __name__ == "__main__":
    main()
