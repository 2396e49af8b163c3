"""The asyncio loop of a worker process: its thread, what takes part in stopping it, how late it is."""

import asyncio
import gc
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from services.worker.pool_job import Interruptible, Job, SoftLimitCancelledError

T = TypeVar("T")
DrainHook = Callable[[float], Awaitable[None]]
CloseHook = Callable[[], Awaitable[None]]

logger = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolLimits:
    """Bounds of the pool, set by `app.conf["asyncio_pool"] = PoolLimits(...)`."""

    shutdown_grace_s: float = 25.0
    """Seconds that a stopping worker gives its tasks and drain hooks."""
    cleanup_s: float = 5.0
    """Seconds that a cancelled task, and a drain hook after its grace, may spend on tidying up."""
    max_threads: int = 32
    """Threads for blocking work (asyncio.to_thread) at once; more of it waits."""
    lag_warning_s: float = 1.0
    """Seconds without a turn of the loop after which the stack of the blocking code is logged."""
    lag_limit_s: float = 60.0
    """Seconds without a turn after which the process ends, since nothing else ends blocking code."""

    @property
    def check_interval_s(self) -> float:
        """Seconds between two looks at the loop."""
        return self.lag_warning_s / 2


@dataclass(slots=True)
class _Process:
    """What this process has registered."""

    pool_loop: "PoolLoop | None" = None
    drain_hooks: list[DrainHook] = field(default_factory=list)
    close_hooks: list[CloseHook] = field(default_factory=list)
    own_loops: dict[int, asyncio.AbstractEventLoop] = field(default_factory=dict)
    """By process id: a forked child must not use its parent's."""


_process = _Process()


def on_drain(hook: DrainHook) -> DrainHook:
    """Have `await hook(grace_s)` run on the loop when the worker has stopped taking messages.

    The hook finishes what fits into `grace_s` seconds (0 at a cold shutdown), releases the rest and
    returns; for releasing it has `PoolLimits.cleanup_s` more. A second signal cancels it.
    """
    _process.drain_hooks.append(hook)
    return hook


def on_loop_close(hook: CloseHook) -> CloseHook:
    """Have `await hook()` run on the loop after the last task: the place to close engines.

    The last registered runs first.
    """
    _process.close_hooks.append(hook)
    return hook


def pool_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process's pool.

    Raises:
        RuntimeError: No asyncio pool runs in this process.
    """
    if _process.pool_loop is None:
        msg = "no asyncio pool runs in this process"
        raise RuntimeError(msg)
    return _process.pool_loop.loop


def spawn(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the pool's loop, from any thread; for jobs that outlive a task."""
    return asyncio.run_coroutine_threadsafe(coroutine, pool_loop())


def run_in_own_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine where there is no pool: on one loop per process, so that engines stay usable.

    A prefork child's soft time limit interrupts the loop from a signal handler; it is raised again
    inside the coroutine, where it can be caught. Anything else that interrupts cancels the coroutine.
    """
    loop = _process.own_loops.get(os.getpid())
    if loop is None:
        loop = _process.own_loops[os.getpid()] = asyncio.new_event_loop()
    interruptible = Interruptible(coroutine)
    task = loop.create_task(interruptible.run())
    while True:
        try:
            return loop.run_until_complete(task)
        except SoftTimeLimitExceeded as limit:
            if task.done():
                raise
            interruptible.limit = SoftLimitCancelledError(*limit.args)
            task.cancel()
        except BaseException:
            task.cancel()
            with suppress(BaseException):
                loop.run_until_complete(task)
            raise


def close_own_loop() -> None:
    """Run the close hooks on this process's own loop and close it, if it has one."""
    loop = _process.own_loops.pop(os.getpid(), None)
    if loop is not None:
        loop.run_until_complete(_close_resources(5.0))
        loop.close()


class PoolLoop:
    """An asyncio loop in a thread of its own, and the jobs on it."""

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="asyncio-pool", daemon=True)
        self._threads = ThreadPoolExecutor(limits.max_threads, thread_name_prefix="asyncio-pool")
        self._jobs: dict[asyncio.Task[None], Job] = {}
        self._shutdown: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def start(self) -> None:
        """Start the thread."""
        self.loop.set_default_executor(self._threads)
        _process.pool_loop = self
        self.thread.start()

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call a function on the loop, from any thread; once the loop has ended, do nothing."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(function, *args)

    def submit(self, job: Job) -> None:
        """Start a job, from any thread."""
        self.call_soon(self._start, job)

    def stop(self, *, is_cold: bool) -> None:
        """Begin to drain, or hurry up if that has begun: from any thread, returns at once."""
        self.call_soon(self._begin_shutdown, is_cold)

    @property
    def running(self) -> int:
        """How many jobs there are."""
        return len(self._jobs)

    @property
    def stop_timeout_s(self) -> float:
        """Seconds after which a stopping loop must have ended, else its code blocks it."""
        return self.limits.shutdown_grace_s + 3 * self.limits.cleanup_s + 1

    def stack(self) -> str:
        """Where the loop's thread is just now."""
        with _without_collections():
            frame = sys._current_frames().get(self.thread.ident or 0)  # noqa: SLF001 - no public way
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while self._shutdown is None or not self._shutdown.done():
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # asyncio lets these out of any background task; they must not end everyone's loop.
                logger.exception("a background task tried to end the process")
        self._threads.shutdown(wait=False, cancel_futures=True)
        _process.pool_loop = None
        self.loop.close()

    def _start(self, job: Job) -> None:
        if self._shutdown is None:
            task = self.loop.create_task(job.run(), name=f"celery-{job.order.task_id}")
            self._jobs[task] = job
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        job = self._jobs.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task %s broke its driver", job.order.task_id, exc_info=error)

    def _begin_shutdown(self, is_cold: bool) -> None:  # noqa: FBT001 - called by the loop
        if self._shutdown is None:
            grace_s = 0 if is_cold else self.limits.shutdown_grace_s
            self._shutdown = self.loop.create_task(self._shut_down(grace_s))
            self._shutdown.add_done_callback(lambda _: self.loop.stop())
        elif is_cold:
            self._hurry.set()

    async def _shut_down(self, grace_s: float) -> None:
        hooks = [self.loop.create_task(_drained(hook, grace_s)) for hook in _process.drain_hooks]
        await self._wait(hooks, grace_s)
        for job in self._jobs.values():
            logger.warning("cancelling task %s: the worker stops", job.order.task_id)
            job.kill()
        if self._hurry.is_set():
            for hook in hooks:
                hook.cancel()
        self._hurry.clear()
        await self._wait(hooks, self.limits.cleanup_s)
        await self._cancel_all()
        await _close_resources(self.limits.cleanup_s)

    async def _wait(self, hooks: Iterable[asyncio.Task[None]], timeout_s: float) -> None:
        """Wait for the hooks and jobs, at most until the timeout or a second signal."""
        work: asyncio.Future[Any] = asyncio.gather(*hooks, *self._jobs, return_exceptions=True)
        hurry: asyncio.Future[Any] = self.loop.create_task(self._hurry.wait())
        await asyncio.wait({work, hurry}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()

    async def _cancel_all(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=self.limits.cleanup_s)


@contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage collection meanwhile.

    One within sys._current_frames() can wait for a lock that its own thread holds, and never return: python/cpython
    issue 106883, in Python 3.11 up to 3.11.8.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def _close_resources(timeout_s: float) -> None:
    for hook in reversed(_process.close_hooks):
        try:
            await asyncio.wait_for(hook(), timeout_s)
        except Exception:
            logger.exception("a close hook failed")
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _drained(hook: DrainHook, grace_s: float) -> None:
    try:
        await hook(grace_s)
    except Exception:
        logger.exception("a drain hook failed")


class LoopWatch:
    """Says when, how long and where the loop was blocked: nothing can interrupt blocking code."""

    def __init__(self, watched: PoolLoop) -> None:
        self.lag_s = 0.0
        self._watched = watched
        self._pinged_at: float | None = None
        self._is_reported = False
        self._silent_checks = 0

    @property
    def is_stuck(self) -> bool:
        """Whether the loop has been blocked for so long that it may be for ever.

        Checks are counted, not seconds: to a process that was itself stopped, a long time is nothing.
        """
        limits = self._watched.limits
        return self._silent_checks * limits.check_interval_s > limits.lag_limit_s

    def check(self) -> None:
        """Ping the loop, or report that the last ping is still not answered."""
        if self._pinged_at is None:
            self._pinged_at = monotonic()
            self._watched.call_soon(self._answer)
            return
        self._silent_checks += 1
        lag_s = monotonic() - self._pinged_at
        if lag_s > self._watched.limits.lag_warning_s and not self._is_reported:
            self._is_reported = True
            logger.warning(
                "the loop is blocked for %.1f s: all tasks wait\n%s", lag_s, self._watched.stack()
            )

    def _answer(self) -> None:
        if self._pinged_at is None:
            return
        self.lag_s = monotonic() - self._pinged_at
        self._pinged_at = None
        self._silent_checks = 0
        if self._is_reported:
            self._is_reported = False
            logger.warning("the loop was blocked for %.1f s", self.lag_s)
