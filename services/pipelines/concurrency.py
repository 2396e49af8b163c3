"""Several calls at once within one step."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.core.errors import CallParkedError, PenstockError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_CALLS = 5
"""Calls to Claude that one step makes at once; other runs want their share of the limits."""


async def map_bounded(
    function: Callable[[Item], Awaitable[Result]],
    items: Sequence[Item],
    *,
    at_once: int = MAX_CALLS,
) -> list[Result]:
    """The function's result for each item, in order.

    After an error no further call begins. Those under way are waited for: they are paid for, and a
    cancelled one could not tell what it cost. Only a call that waits for a message batch keeps no
    other from beginning: all are to be in the same.

    Raises:
        PenstockError: The first of the calls' errors, one that waits for a message batch last.
    """
    results: dict[int, Result] = {}
    waiting = iter(enumerate(items))
    parked: list[CallParkedError] = []

    async def work() -> None:
        for number, item in waiting:
            try:
                results[number] = await function(item)
            except PenstockError as error:
                if isinstance(error, CallParkedError) and error.reason == "batch":
                    parked.append(error)
                    continue
                deque(waiting, maxlen=0)
                raise

    workers = [work() for _ in range(min(at_once, len(items)))]
    for outcome in await asyncio.gather(*workers, return_exceptions=True):
        if outcome is not None:
            raise outcome
    if parked:
        raise parked[0]
    return [results[number] for number in range(len(items))]
