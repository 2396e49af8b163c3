"""One task of the asyncio pool: Celery's tracer in a greenlet that an asyncio task drives.

The tracer is an ordinary function, so it runs in a greenlet. When the task's body awaits, `wait_for`
steps the coroutine inside that greenlet and hands only the future it waits on to the loop. So the
body keeps `self.request` and `current_task` (Celery keys them by greenlet) and shares one contextvars
context with the tracer (a span opened by a task_prerun receiver is the parent of those in the body).
"""

import asyncio
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError as AwaitCancelledError
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

from billiard.einfo import ExceptionInfo
from celery.exceptions import (
    SoftTimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from greenlet import GreenletExit, getcurrent, greenlet

T = TypeVar("T")

logger = get_logger(__name__)


class SoftLimitCancelledError(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft time limit, as a coroutine sees it.

    It is a cancellation too, so that libraries (task groups, connection pools) tidy up behind it.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What Celery wants done: the traced call, whom to tell, how long it may take."""

    task_id: str
    call: Callable[[], object]
    on_accepted: Callable[..., object]
    on_result: Callable[..., object]
    on_error: Callable[..., object]
    on_timeout: Callable[..., object]
    on_end: Callable[[], object]
    soft_limit_s: float | None = None
    time_limit_s: float | None = None


class JobGreenlet(greenlet):
    """The greenlet that a job's tracer runs in, with the asyncio task's contextvars."""

    def __init__(self, job: "Job") -> None:
        super().__init__(job.trace)
        self.job = job
        self.gr_context = getcurrent().gr_context


class Job:
    """A running task; also the handle by which Celery's request terminates it.

    Everything but `terminate` happens on the loop's thread.
    """

    def __init__(
        self,
        order: Order,
        *,
        loop: asyncio.AbstractEventLoop,
        post: Callable[..., None],
        cleanup_s: float,
    ) -> None:
        """Prepare a job; `run` starts it.

        Args:
            order: What to do.
            loop: The pool's loop.
            post: Hands a call to the thread that owns Celery's bookkeeping.
            cleanup_s: Seconds that a killed body may spend in its `finally` blocks.
        """
        self.order = order
        self.is_killed = False
        self._has_ended = False
        self._loop = loop
        self._post = post
        self._cleanup_s = cleanup_s
        self._greenlet: JobGreenlet | None = None
        self._asyncio_task: asyncio.Task[None] | None = None
        self._has_soft_limit_passed = False
        self._timers: list[asyncio.TimerHandle] = []

    def terminate(self, _signum: int | None = None) -> None:
        """Cancel the task without a report; called by Celery's request, which announces it."""
        with suppress(RuntimeError):  # The loop is closed.
            self._loop.call_soon_threadsafe(self.kill)

    async def run(self) -> None:
        """Run the tracer to its end."""
        self._asyncio_task = asyncio.current_task()
        self._greenlet = JobGreenlet(self)
        self._set_timers()
        try:
            await self._drive(self._greenlet)
        finally:
            self._asyncio_task = None  # else job, task and greenlet wait for the garbage collector

    def kill(self) -> None:
        """Cancel the body; what it still raises or returns is dropped. A second call changes nothing."""
        if self.is_killed or self._has_ended:
            return
        self.is_killed = True
        if self._asyncio_task is not None:
            self._asyncio_task.cancel()
            self._timers.append(self._loop.call_later(self._cleanup_s, self._unwind))

    def trace(self) -> None:
        """Call Celery's tracer and tell Celery what came of it; the greenlet's function."""
        self._post(self.order.on_accepted, os.getpid(), monotonic())
        try:
            if not self.is_killed:
                outcome = self.order.call()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to this one task
            if not self.is_killed:
                self._report(error)
        else:
            if not self.is_killed:
                self._post(self.order.on_result, outcome)
        finally:
            self._end()

    def _end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            for timer in self._timers:
                timer.cancel()
            self._post(self.order.on_end)

    def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Step a coroutine to its end inside this job's greenlet."""
        if self.is_killed:  # A body that swallowed its cancellation gets no further.
            coroutine.close()
            self._pass_up(None, coroutine)  # If it loops, the others still get their turn.
            raise asyncio.CancelledError
        try:
            result = self._step(coroutine)
        except BaseException as error:
            seen = self._as_seen_by_tracer(error)
            if seen is error:
                raise
            raise seen from error
        if self.is_killed:
            raise asyncio.CancelledError
        return result

    def _as_seen_by_tracer(self, error: BaseException) -> BaseException:
        if self.is_killed:  # A BaseException: the tracer stores nothing and unwinds.
            return asyncio.CancelledError()
        if isinstance(error, SoftLimitCancelledError):
            return SoftTimeLimitExceeded(*error.args)
        if isinstance(error, asyncio.CancelledError):
            # Nobody cancelled this task: what it awaited was. As an Exception, that is a failure.
            return AwaitCancelledError(*error.args)
        return error

    def _step(self, coroutine: Coroutine[Any, Any, T]) -> T:
        interruption: BaseException | None = None
        while True:
            try:
                future = coroutine.throw(interruption) if interruption else coroutine.send(None)
            except StopIteration as stop:
                result: T = stop.value
                return result
            interruption = self._pass_up(future, coroutine)

    def _pass_up(self, future: object, coroutine: Coroutine[Any, Any, T]) -> BaseException | None:
        """Wait in the loop; the exception to raise in the coroutine, if any."""
        parent = getcurrent().parent
        if parent is None:
            msg = "a job's greenlet always has the loop as its parent"
            raise RuntimeError(msg)
        try:
            parent.switch(future)
        except GreenletExit:
            with suppress(RuntimeError):  # "coroutine ignored GeneratorExit": leave it for good.
                coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001 - cancellation too belongs to the coroutine
            return error
        return None

    @types.coroutine
    def _drive(self, tracer: JobGreenlet) -> Generator[object, None, None]:
        """Let the asyncio task wait for whatever the tracer's body waits for."""
        future = tracer.switch()
        while not self._has_ended:
            interruption = None
            try:
                yield future
            except BaseException as error:  # noqa: BLE001 - cancellation too belongs to the body
                interruption = self._interruption(error)
            if not self._has_ended:  # `_unwind` may have ended it meanwhile.
                future = tracer.throw(interruption) if interruption else tracer.switch()

    def _interruption(self, error: BaseException) -> BaseException:
        is_soft_limit = self._has_soft_limit_passed and not self.is_killed
        if not (is_soft_limit and isinstance(error, asyncio.CancelledError)):
            return error
        self._has_soft_limit_passed = False
        if self._asyncio_task is not None:
            self._asyncio_task.uncancel()
        return SoftLimitCancelledError(self.order.soft_limit_s)

    def _set_timers(self) -> None:
        order = self.order
        if order.soft_limit_s:
            self._timers.append(self._loop.call_later(order.soft_limit_s, self._exceed_soft_limit))
        if order.time_limit_s:
            self._timers.append(self._loop.call_later(order.time_limit_s, self._exceed_time_limit))

    def _exceed_soft_limit(self) -> None:
        if self._asyncio_task is None or self.is_killed:
            return
        self._has_soft_limit_passed = True
        self._asyncio_task.cancel()
        self._post(self.order.on_timeout, True, self.order.soft_limit_s)  # noqa: FBT003 - Celery's signature

    def _exceed_time_limit(self) -> None:
        if not self.is_killed:
            self._post(self.order.on_timeout, False, self.order.time_limit_s)  # noqa: FBT003 - Celery's signature
            self.kill()

    def _unwind(self) -> None:
        """End a killed body that does not end by itself: it is never stepped again."""
        if self._greenlet is None or self._asyncio_task is None or self._has_ended:
            return
        logger.warning("task %s ignored its cancellation and is abandoned", self.order.task_id)
        self._greenlet.throw(GreenletExit)
        self._end()
        self._asyncio_task.cancel()

    def _report(self, error: BaseException) -> None:
        """Tell Celery of an error that its tracer let pass, as a dying prefork child would."""
        if isinstance(error, Exception):
            self._post(self.order.on_error, ExceptionInfo())
            return
        lost = WorkerLostError(repr(error)).with_traceback(error.__traceback__)
        self._post(self.order.on_error, ExceptionInfo((WorkerLostError, lost, lost.__traceback__)))
        if isinstance(error, WorkerTerminate):
            self._post(setattr, worker_state, "should_terminate", error.code or 0)
        elif isinstance(error, WorkerShutdown):
            self._post(setattr, worker_state, "should_stop", error.code or 0)


def current_job() -> Job | None:
    """The job that this code runs in, if any."""
    current = getcurrent()
    return current.job if isinstance(current, JobGreenlet) else None


async def as_coroutine(awaitable: Awaitable[T]) -> T:
    """Any awaitable as a coroutine."""
    return await awaitable


class Interruptible(Generic[T]):
    """A coroutine outside of a pool, in which a cancellation can become the soft time limit."""

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.limit: SoftLimitCancelledError | None = None
        self._coroutine = coroutine

    async def run(self) -> T:
        """Await the coroutine; set `limit` before cancelling to raise that instead."""
        try:
            return await self._steps()
        except SoftLimitCancelledError as limit:
            raise SoftTimeLimitExceeded(*limit.args) from limit

    @types.coroutine
    def _steps(self) -> Generator[object, None, T]:
        interruption: BaseException | None = None
        while True:
            try:
                step = self._coroutine
                future = step.throw(interruption) if interruption else step.send(None)
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                yield future
                interruption = None
            except BaseException as error:  # noqa: BLE001 - cancellation too belongs to the coroutine
                interruption, self.limit = self.limit or error, None
