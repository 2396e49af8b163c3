"""A Celery worker pool on one asyncio loop: a thousand waiting tasks in one process. ADR-0004.

Start a worker on it with `CELERY_CUSTOM_WORKER_POOL=services.worker.pool:TaskPool python -m services.worker -P custom`.

What tasks use:

* `@app.task(...) @async_task async def f(...)` (or `@app.task(bind=True)`): a task written as a coroutine.
  In this pool it runs on the loop; in a prefork child (and called directly) on that process's own loop,
  which stays the same for all tasks, so that engines made there stay usable.
* `wait_for(awaitable)`: the same from inside a `def` task.
* `asyncio.to_thread(...)` for work that blocks: at most `PoolLimits.max_threads` at once. Code that blocks
  without it stops every task of the process, and no time limit can interrupt it; the pool logs where, and ends the
  process after `PoolLimits.lag_limit_s`.

What the process's wiring uses:

* `app.conf["asyncio_pool"] = PoolLimits(...)`.
* `spawn(coroutine)` starts a job that outlives a task on the loop, from any thread; `pool_loop()` is the loop.
  From `worker_process_init` on the loop runs (sent here once, as by Celery's solo pool).
* `on_drain(hook)`: `await hook(grace_s)` when the worker stops. `on_loop_close(hook)`: `await hook()` at the end.

Stopping takes at most `shutdown_grace_s` plus three times `cleanup_s`; a container needs a longer stop_grace_period.
"""

import functools
import inspect
import os
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks  # type: ignore[attr-defined]  # no stub
from celery.exceptions import ImproperlyConfigured
from celery.platforms import EX_FAILURE
from celery.signals import worker_process_init, worker_process_shutdown
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from kombu.asynchronous import Hub

from services.worker.pool_job import Job, Order, as_coroutine, current_job
from services.worker.pool_loop import (
    LoopWatch,
    PoolLimits,
    PoolLoop,
    close_own_loop,
    on_drain,
    on_loop_close,
    pool_loop,
    run_in_own_loop,
    spawn,
)

__all__ = [
    "PoolLimits",
    "TaskPool",
    "async_task",
    "on_drain",
    "on_loop_close",
    "pool_loop",
    "spawn",
    "wait_for",
]

P = ParamSpec("P")
T = TypeVar("T")

logger = get_logger(__name__)


def wait_for(awaitable: Awaitable[T]) -> T:
    """Let a `def` task wait for an awaitable; other tasks go on meanwhile.

    Raises:
        SoftTimeLimitExceeded: The task's soft time limit passed; it may go on until the hard one.
        concurrent.futures.CancelledError: What was awaited had been cancelled by somebody.
    """
    coroutine = as_coroutine(awaitable)
    job = current_job()
    return job.wait_for(coroutine) if job else run_in_own_loop(coroutine)


def async_task(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """A coroutine function as the function that Celery wants; `app.task` goes above it."""

    @functools.wraps(function)
    def task_body(*args: P.args, **kwargs: P.kwargs) -> T:
        return wait_for(function(*args, **kwargs))

    # Celery checks a caller's arguments against this.
    task_body.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # not in typeshed
    return task_body


class CeleryThread:
    """Runs Celery's callbacks, in order, in the one thread that owns its bookkeeping.

    A request's callbacks change sets and dicts that the consumer and remote control iterate over, and
    send acks and events by sockets that the consumer reads: none of that is made for two threads.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._hub: Hub | None = None
        self._is_scheduled = False

    def attach(self, hub: Hub) -> None:
        """Have Celery's event loop run what is posted."""
        self._hub = hub

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Queue a call, from any thread."""
        self._calls.append((function, args))
        if self._hub is not None and not self._is_scheduled:
            self._is_scheduled = True
            self._hub.call_soon(self.run)

    def run(self) -> None:
        """Make all queued calls; one that raises does not keep the others from being made."""
        self._is_scheduled = False
        while self._calls:
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                logger.exception("Celery's callback %r raised", function)

    def run_outside_of_hub(self) -> None:
        """Stand in for Celery's event loop, which no longer turns when a worker stops."""
        self.run()
        if self._hub is not None:
            self._hub.fire_timers()
            # The acks; not the sockets' readers, which would deliver messages to a closed pool.
            _run_ready_callbacks(self._hub)


class TaskPool(BasePool):
    """Celery's tasks on one asyncio loop."""

    signal_safe = False
    body_can_be_buffer = True
    # Celery's own semaphore keeps what exceeds -c in the consumer: revocable, and dropped on reconnection.
    uses_semaphore = True

    def on_start(self) -> None:
        """Start the loop.

        Raises:
            ImproperlyConfigured: The broker's transport has no event loop (Redis and AMQP have).
        """
        if self.options.get("semaphore") is None:
            msg = "the asyncio pool needs a broker transport with an event loop, such as Redis"
            raise ImproperlyConfigured(msg)
        limits = self.app.conf.get("asyncio_pool") or PoolLimits()
        self._is_stopping = False
        self._celery = CeleryThread()
        self._pool = PoolLoop(limits)
        self._watch = LoopWatch(self._pool)
        self._pool.start()
        worker_process_init.send(sender=self.options["initargs"][1])

    def did_start_ok(self) -> bool:
        """Whether the loop runs."""
        return self._pool.thread.is_alive()

    def register_with_event_loop(self, loop: Hub) -> None:
        """Use Celery's event loop; called again after each reconnection to the broker."""
        self._celery.attach(loop)
        loop.call_repeatedly(self._pool.limits.check_interval_s, self._check_loop)

    def on_apply(  # type: ignore[override]  # the stub leaves its arguments open
        self,
        target: Callable[..., object],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
        **orders: Any,
    ) -> Job | None:
        """Start a traced task; Celery calls this for at most `limit` tasks at once."""
        if self._is_stopping:
            return None  # Not acknowledged, so the broker gives it to another worker.
        order = Order(
            task_id=orders["correlation_id"],
            call=functools.partial(target, *args, **(kwargs or {})),
            on_accepted=orders["accept_callback"],
            on_result=orders["callback"],
            on_error=orders["error_callback"],
            on_timeout=orders["timeout_callback"],
            on_end=self.options["semaphore"].release,
            soft_limit_s=orders.get("soft_timeout") or self.options.get("soft_timeout"),
            time_limit_s=orders.get("timeout") or self.options.get("timeout"),
        )
        job = Job(
            order,
            loop=self._pool.loop,
            post=self._celery.post,
            cleanup_s=self._pool.limits.cleanup_s,
        )
        self._pool.submit(job)
        return job

    def grow(self, n: int = 1) -> None:
        """Run n more tasks at once."""
        self.limit += n
        self.options["semaphore"].grow(n)

    def shrink(self, n: int = 1) -> None:
        """Run n tasks fewer at once, as running ones end."""
        self.limit -= n
        self.options["semaphore"].shrink(n)

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Do nothing: all tasks share the pid, and the request calls Job.terminate as well."""

    def on_stop(self) -> None:
        """Drain: wait for tasks and hooks within the grace period, cancel the rest, end the loop.

        A second signal enters here again from its handler and hurries the first call up.
        """
        self._stop(is_cold=bool(worker_state.should_terminate))

    def on_terminate(self) -> None:
        """Cancel everything and end the loop."""
        self._stop(is_cold=True)

    def _check_loop(self) -> None:
        if not (self._is_stopping or self._pool.thread.is_alive()):
            logger.critical("the loop has died; the worker ends, to be started again")
            worker_state.should_terminate = EX_FAILURE  # type: ignore[assignment]  # wrong stub
        self._watch.check()
        if self._watch.is_stuck:
            logger.critical("the loop is stuck: the process ends\n%s", self._pool.stack())
            os._exit(EX_FAILURE)  # no hook, no `finally`: all of them would wait for the loop

    def _stop(self, *, is_cold: bool) -> None:
        self._is_stopping = True
        self._pool.stop(is_cold=is_cold)
        deadline = monotonic() + self._pool.stop_timeout_s
        while self._pool.thread.is_alive() and monotonic() < deadline:
            self._pool.thread.join(0.05)
            self._celery.run_outside_of_hub()
        # What was posted since: acks made while Celery's event loop closes would be lost.
        self._celery.run_outside_of_hub()
        if self._pool.thread.is_alive():
            logger.critical("the loop is blocked and is abandoned\n%s", self._pool.stack())

    def _get_info(self) -> dict[str, Any]:
        limits = self._pool.limits
        return {
            **super()._get_info(),  # type: ignore[misc]  # not in the stubs
            "processes": [os.getpid()],
            "running": self._pool.running,
            "threads": limits.max_threads,
            "timeouts": [self.options.get("soft_timeout"), self.options.get("timeout")],
            "loop-lag-s": round(self._watch.lag_s, 3),
        }


@worker_process_shutdown.connect
def _close_own_loop(**_: object) -> None:
    close_own_loop()
