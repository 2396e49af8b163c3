"""Waiting for what a test expects to happen soon."""

import asyncio
from collections.abc import Callable


async def until(is_true: Callable[[], bool], *, within_s: float = 5) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It has not come true in time.
    """
    async with asyncio.timeout(within_s):
        while not is_true():
            await asyncio.sleep(0.005)
