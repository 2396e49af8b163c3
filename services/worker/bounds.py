"""A bound on other people's code: what it does, it does within a time, and to nobody else."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError as AwaitCancelledError
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from services.core.errors import StepExitError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

CLEANUP_S = 2.0
"""Seconds that cancelled code may spend in its `finally` blocks."""


class TookTooLongError(Exception):
    """The time is up."""


async def run_within(
    limit_s: float, call: Callable[[], Awaitable[Result]], *, what: object
) -> Result:
    """The result of a call that gets no more than its time, also if it swallows its cancellation.

    Args:
        limit_s: Seconds that it may take; without any left it is not made.
        call: Runs in a task of its own, and in the caller's context.
        what: Names the call in the log, where it is turned into text.

    Raises:
        TookTooLongError: It had not ended in time.
        StepExitError: It raised SystemExit or KeyboardInterrupt.
        concurrent.futures.CancelledError: What it awaited was cancelled, and not by the caller.
    """
    if limit_s <= 0:
        raise TookTooLongError
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    task = loop.create_task(_contain(call))
    task.add_done_callback(partial(_tell, over))
    timer = loop.call_later(limit_s, _tell, over)
    try:
        await over  # asyncio.wait() would do, at twice the cost
        if task.cancelled():
            raise AwaitCancelledError
        if task.done():
            return task.result()
    finally:
        timer.cancel()
        if not task.done():
            await _end(task, what)
    raise TookTooLongError


async def _contain(call: Callable[[], Awaitable[Result]]) -> Result:
    """Make an attempt to end the process an error like any other."""
    try:
        return await call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise StepExitError from error


async def _end(task: "asyncio.Task[Any]", what: object) -> None:
    """Cancel a task; one that goes on all the same is never stepped again."""
    task.cancel()
    try:
        await asyncio.wait({task}, timeout=CLEANUP_S)
    finally:  # whoever cancels the caller once more has no time for more tidying up
        coroutine = task.get_coro()
        if not task.done() and coroutine is not None:
            logger.error("%s ignored its cancellation and is abandoned", what)
            with suppress(RuntimeError):  # "coroutine ignored GeneratorExit"
                coroutine.close()
                task.cancel()  # so that it ends now, with its coroutine, and not as garbage


def _tell(over: "asyncio.Future[None]", task: "asyncio.Task[Any] | None" = None) -> None:
    """Wake the caller; look at the exception of a task, or asyncio would log that nobody has."""
    if not over.done():
        over.set_result(None)
    if task is not None and not task.cancelled():
        task.exception()
