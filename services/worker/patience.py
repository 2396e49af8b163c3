"""Waiting for PostgreSQL: what was done and paid for is recorded as soon as the record answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.core.errors import StoreUnavailableError

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 2.0


async def until_store_answers(write: Callable[[], Awaitable[Result]]) -> Result:
    """The result of a write, repeated for as long as PostgreSQL is away.

    It ends even so: the fence refuses the write once another worker has taken the run, and a
    stopping worker cancels it.

    Raises:
        LeaseLostError: As `write` does.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await write()
        except StoreUnavailableError:
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
