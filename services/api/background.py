"""Work that goes on while requests are answered."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

logger = logging.getLogger(__name__)

PAUSE_AFTER_ERROR_S = 1.0
CANCEL_AGAIN_S = 0.5

Turn = Callable[[], Awaitable[float]]
"""Does a piece of work and says how many seconds to wait before the next."""


async def repeat(turn: Turn, *, name: str) -> None:
    """Take turns until cancelled. An outage is told when it begins and when it ends, not each second.

    Args:
        turn: What to repeat.
        name: What it is called in log lines.
    """
    failing_with: type[Exception] | None = None
    while True:
        try:
            pause_s = await turn()
        except Exception as error:  # one failed turn must not end the loop; the next may succeed
            if failing_with is not type(error):
                logger.warning("%s fails: %s", name, error, exc_info=True)
            failing_with = type(error)
            pause_s = PAUSE_AFTER_ERROR_S
        else:
            if failing_with:
                logger.info("%s works again", name)
            failing_with = None
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def in_background(*turns: tuple[str, Turn]) -> AsyncIterator[None]:
    """Repeat each turn while the context lasts."""
    tasks = [asyncio.create_task(repeat(turn, name=name), name=name) for name, turn in turns]
    try:
        yield
    finally:
        pending = set(tasks)
        while pending:
            for task in pending:
                task.cancel()
            # Before Python 3.12 asyncio.wait_for, which redis-py uses, can swallow a cancellation.
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
