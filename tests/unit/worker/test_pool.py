"""The asyncio pool without a worker: a fake hub stands in for Celery's event loop."""

import asyncio
import contextvars
import gc
import inspect
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded, WorkerLostError
from celery.signals import worker_process_init
from celery.worker import state as worker_state
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from services.worker import pool_loop as pool_loop_module
from services.worker.pool import (
    PoolLimits,
    TaskPool,
    async_task,
    on_drain,
    on_loop_close,
    pool_loop,
    spawn,
    wait_for,
)
from services.worker.pool_job import AwaitCancelledError
from services.worker.pool_loop import LoopWatch, close_own_loop


class FakeHub:
    """Celery's event loop, turned by the test."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def call_soon(self, function: Callable[[], None]) -> None:
        self.calls.put(function)

    def call_repeatedly(self, delay: float, function: Callable[[], None]) -> None:
        """Remember the timer, and never fire it."""
        self.timer = function

    def fire_timers(self) -> None:
        """Fire no timer."""

    def _pop_ready(self) -> set[Any]:
        return set()


class Harness:
    """A started pool, and what it told Celery."""

    def __init__(self, limits: PoolLimits) -> None:
        self.app = Celery("unit", set_as_current=False)
        self.app.conf["asyncio_pool"] = limits
        self.semaphore = LaxBoundedSemaphore(5)
        self.hub = FakeHub()
        self.told: list[tuple[str, Any]] = []
        self.pool = TaskPool(5, app=self.app, semaphore=self.semaphore, initargs=(self.app, "unit"))
        self.pool.start()
        self.pool.register_with_event_loop(self.hub)

    def apply(self, function: Callable[[], Any], **options: Any) -> Any:
        """Start a function as a task."""

        def tell(kind: str) -> Callable[..., None]:
            return lambda *facts: self.told.append((kind, *facts))  # type: ignore[arg-type]  # facts vary

        self.semaphore.acquire(lambda: None)
        return self.pool.apply_async(
            function,
            correlation_id="task",
            accept_callback=options.pop("on_accepted", tell("accepted")),
            callback=tell("result"),
            error_callback=tell("error"),
            timeout_callback=tell("timeout"),
            **options,
        )

    def turn_until(self, kind: str) -> tuple[Any, ...]:
        """Turn the hub until the pool has told this."""
        while not (found := [fact for fact in self.told if fact[0] == kind]):
            self.hub.calls.get(timeout=5)()
        return found[0]

    def turn_until_free(self) -> None:
        """Turn the hub until every slot is free."""
        while self.semaphore.value < self.semaphore.initial_value:
            self.hub.calls.get(timeout=5)()


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing registered by other tests; the process's own loop is closed in the end."""
    monkeypatch.setattr(pool_loop_module, "_process", pool_loop_module._Process())
    monkeypatch.setattr(worker_process_init, "receivers", [])
    yield
    close_own_loop()


@pytest.fixture
def harness() -> Iterator[Harness]:
    """A pool with short limits."""
    running = Harness(PoolLimits(shutdown_grace_s=0.5, cleanup_s=0.2, lag_warning_s=0.05))
    yield running
    running.pool.stop()


def test_outside_a_pool_all_coroutines_run_on_one_loop() -> None:
    """A prefork child's engines stay usable from task to task."""

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert wait_for(loop()) is wait_for(loop())


def test_outside_a_pool_the_callers_context_is_seen() -> None:
    """A span opened by Celery's signals is the parent of those in the coroutine."""
    variable = contextvars.ContextVar("variable", default="outer")

    async def read() -> str:
        return variable.get()

    variable.set("task's")
    assert wait_for(read()) == "task's"


def test_outside_a_pool_an_interruption_cancels_the_coroutine() -> None:
    """Prefork's soft limit comes as an exception from a signal handler; the coroutine tidies up."""
    seen = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, _raise, SystemExit("as from a signal"))
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(SystemExit):
        wait_for(work())
    assert seen == ["cancelled"]


def test_async_task_keeps_name_and_signature() -> None:
    """Celery names the task and checks a caller's arguments by them."""

    @async_task
    async def greet(name: str, *, loud: bool = False) -> str:
        return name.upper() if loud else name

    assert greet.__name__ == "greet"
    assert list(inspect.signature(greet).parameters) == ["name", "loud"]
    assert not inspect.iscoroutinefunction(greet)
    assert greet("ada", loud=True) == "ADA"


def test_without_a_pool_there_is_no_loop_to_spawn_on() -> None:
    """The mistake is named."""
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="no asyncio pool"):
        spawn(coroutine)
    coroutine.close()
    with pytest.raises(RuntimeError, match="no asyncio pool"):
        pool_loop()


def test_a_broker_without_an_event_loop_is_refused() -> None:
    """Without Celery's semaphore nothing would bound the tasks."""
    pool = TaskPool(1, app=Celery("unit", set_as_current=False))

    with pytest.raises(ImproperlyConfigured, match="event loop"):
        pool.start()


def test_celery_is_told_in_order_and_in_its_own_thread(harness: Harness) -> None:
    """Accepted comes before the result, both from the thread that turns the hub."""
    threads = []
    harness.apply(lambda: 7, on_accepted=lambda *_: threads.append(threading.current_thread()))

    assert harness.turn_until("result") == ("result", 7)
    harness.turn_until_free()
    assert threads == [threading.current_thread()]


def test_accepted_names_the_process(harness: Harness) -> None:
    """Flower and `inspect active` show a pid that exists."""
    harness.apply(lambda: 7)

    assert harness.turn_until("accepted")[1] == os.getpid()


def test_a_callback_that_raises_keeps_none_of_the_others_from_being_called(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the result is still told and the slot is freed."""
    harness.apply(lambda: 7, on_accepted=_raise)

    assert harness.turn_until("result") == ("result", 7)
    harness.turn_until_free()
    assert "callback" in caplog.text


def test_wait_for_takes_any_awaitable_and_gives_its_error(harness: Harness) -> None:
    """Futures and coroutines; an error is raised where the task waits."""

    def body() -> tuple[str, str]:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, "future")
        first = wait_for(future)
        try:
            wait_for(asyncio.wait_for(asyncio.sleep(30), 0.01))
        except TimeoutError:
            return first, "timeout"
        return first, "none"

    harness.apply(body)

    assert harness.turn_until("result") == ("result", ("future", "timeout"))


def test_an_error_that_the_tracer_lets_pass_is_told(harness: Harness) -> None:
    """Reject and internal errors reach Request.on_failure."""
    harness.apply(lambda: _raise(LookupError("lost")))

    error = harness.turn_until("error")[1]
    assert isinstance(error.exception.exc, LookupError)


def test_an_exit_is_told_as_a_lost_worker(harness: Harness) -> None:
    """As if a prefork child had died; the loop goes on."""
    harness.apply(lambda: _raise(SystemExit(3)))
    error = harness.turn_until("error")[1]
    assert isinstance(error.exception.exc, WorkerLostError)

    harness.apply(lambda: "still here")
    assert harness.turn_until("result") == ("result", "still here")


def test_a_cancelled_awaitable_is_an_ordinary_error(harness: Harness) -> None:
    """So the tracer records a failure; a bare CancelledError would pass it unseen."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    def body() -> str:
        try:
            wait_for(cancelled())
        except AwaitCancelledError as error:
            return type(error).__name__
        return "none"

    harness.apply(body)

    assert harness.turn_until("result") == ("result", "CancelledError")


def test_the_soft_limit_is_told_and_raised(harness: Harness) -> None:
    """Inside the coroutine it can be caught as SoftTimeLimitExceeded, and the task goes on."""

    async def work() -> str:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0.01)
            return "tidied up"
        return "not interrupted"

    harness.apply(lambda: wait_for(work()), soft_timeout=0.05)

    assert harness.turn_until("result") == ("result", "tidied up")
    assert ("timeout", True, 0.05) in harness.told


def test_a_timeout_of_the_task_itself_is_not_taken_for_the_soft_limit(harness: Harness) -> None:
    """asyncio.timeout inside a task with a soft limit raises TimeoutError."""

    async def work() -> str:
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(30)
        except TimeoutError:
            return "timeout"
        return "none"

    harness.apply(lambda: wait_for(work()), soft_timeout=20)

    assert harness.turn_until("result") == ("result", "timeout")


def test_the_time_limit_is_told_and_nothing_after_it(harness: Harness) -> None:
    """A late result is dropped, the slot is freed."""

    async def work() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "late"
        return "none"

    harness.apply(lambda: wait_for(work()), timeout=0.05)

    assert harness.turn_until("timeout") == ("timeout", False, 0.05)
    harness.turn_until_free()
    assert [fact[0] for fact in harness.told] == ["accepted", "timeout"]


def test_the_workers_limits_hold_where_a_task_has_none() -> None:
    """task_time_limit comes as an option of the pool."""
    harness = Harness(PoolLimits(cleanup_s=0.1))
    harness.pool.options["timeout"] = 0.05
    harness.apply(lambda: wait_for(asyncio.sleep(30)))

    assert harness.turn_until("timeout") == ("timeout", False, 0.05)
    harness.pool.stop()


def test_a_terminated_task_is_not_reported(harness: Harness) -> None:
    """Celery's request has announced it already."""
    job = harness.apply(lambda: wait_for(asyncio.sleep(30)))
    harness.turn_until("accepted")

    job.terminate(15)

    harness.turn_until_free()
    assert [fact[0] for fact in harness.told] == ["accepted"]


def test_terminating_a_finished_task_changes_nothing(harness: Harness) -> None:
    """Also after the pool has stopped."""
    job = harness.apply(lambda: 7)
    harness.turn_until_free()

    job.terminate(15)
    harness.pool.stop()
    job.terminate(15)

    assert [fact[0] for fact in harness.told] == ["accepted", "result"]


def test_stop_waits_for_tasks_within_the_grace_period(harness: Harness) -> None:
    """What is told during the drain reaches Celery though its event loop no longer turns."""
    harness.apply(lambda: wait_for(asyncio.sleep(0.1, "finished")))

    harness.pool.stop()

    assert harness.told[-1] == ("result", "finished")
    assert not harness.pool.did_start_ok()


def test_stop_tells_what_a_loop_left_behind(harness: Harness) -> None:
    """Also if the loop ended before anybody looked: an ack made later would be lost."""
    harness.apply(lambda: "finished")
    loop = harness.pool._pool
    loop.stop(is_cold=False)
    loop.thread.join(5)

    harness.pool.stop()

    assert harness.told[-1] == ("result", "finished")


def test_stop_is_bounded(harness: Harness) -> None:
    """A task that takes longer than grace and cleanup is cancelled."""
    harness.apply(lambda: wait_for(asyncio.sleep(30)))
    begun = time.monotonic()

    harness.pool.stop()

    assert time.monotonic() - begun < 2
    assert [fact[0] for fact in harness.told] == ["accepted"]


def test_a_stopped_pool_starts_nothing(harness: Harness) -> None:
    """The message stays unacknowledged, for another worker."""
    harness.pool.stop()

    assert harness.apply(lambda: 7) is None


def test_terminate_after_stop_changes_nothing(harness: Harness) -> None:
    """Celery calls both at a cold shutdown."""
    harness.pool.stop()
    harness.pool.terminate()

    assert not harness.pool.did_start_ok()


def test_hooks_run_in_order(harness: Harness) -> None:
    """Drain hooks first, with the grace; close hooks last, the last registered first; errors logged."""
    calls: list[object] = []

    async def drain(grace_s: float) -> None:
        calls.append(grace_s)
        raise ValueError

    async def close(name: str) -> None:
        calls.append(name)
        if name == "engine":
            raise ValueError

    on_drain(drain)
    on_loop_close(lambda: close("client"))
    on_loop_close(lambda: close("engine"))
    harness.pool.stop()

    assert calls == [0.5, "engine", "client"]


def test_a_background_job_is_cancelled_in_the_end(harness: Harness) -> None:
    """spawn() runs on the pool's loop, and the loop does not end before the job."""

    async def job() -> None:
        assert asyncio.get_running_loop() is pool_loop()
        await asyncio.sleep(30)

    future = spawn(job())
    harness.pool.stop()

    assert future.cancelled()


def test_a_blocked_loop_is_reported_once_with_its_stack(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """And its end as well, with the time it took."""
    caplog.set_level(logging.WARNING)
    watch = LoopWatch(harness.pool._pool)
    release = threading.Event()

    def block_the_loop() -> None:
        release.wait(10)

    harness.apply(block_the_loop)
    harness.turn_until("accepted")
    for _ in range(4):
        watch.check()
        time.sleep(0.06)
    release.set()
    harness.turn_until_free()
    spawn(asyncio.sleep(0)).result(5)

    blocked = [r.message for r in caplog.records if "is blocked" in r.message]
    assert len(blocked) == 1
    assert "in block_the_loop" in blocked[0]
    assert watch.lag_s > 0.15
    assert "was blocked for 0." in caplog.text


@pytest.mark.parametrize("is_enabled", [True, False])
def test_nothing_is_collected_while_frames_are_listed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, *, is_enabled: bool
) -> None:
    """Python 3.11 can hang for ever then, holding the GIL; afterwards all is as it was."""
    seen: list[bool] = []
    monkeypatch.setattr(sys, "_current_frames", lambda: seen.append(gc.isenabled()) or {})
    try:
        gc.enable() if is_enabled else gc.disable()
        harness.pool._pool.stack()
        seen.append(gc.isenabled())
    finally:
        gc.enable()

    assert [False, is_enabled] == seen


def test_a_loop_that_is_blocked_for_long_is_stuck(harness: Harness) -> None:
    """Looks are counted: a process that was stopped itself has not looked meanwhile."""
    watch = LoopWatch(harness.pool._pool)
    release = threading.Event()
    harness.apply(lambda: release.wait(10))
    harness.turn_until("accepted")
    looks = int(60 / 0.025)

    watch.check()
    for _ in range(looks):
        watch.check()
    before = watch.is_stuck
    watch.check()
    after = watch.is_stuck
    release.set()
    harness.turn_until_free()
    spawn(asyncio.sleep(0)).result(5)

    assert (False, True, False) == (before, after, watch.is_stuck)


def test_a_dead_loop_ends_the_worker(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Better started again than alive without ever running a task."""
    monkeypatch.setattr(worker_state, "should_terminate", None)
    monkeypatch.setattr(harness.pool._pool, "thread", threading.Thread())

    harness.hub.timer()

    assert worker_state.should_terminate == 1
    assert "the loop has died" in caplog.text


def test_grow_and_shrink_change_limit_and_semaphore(harness: Harness) -> None:
    """-c is Celery's semaphore; both numbers stay equal."""
    harness.pool.grow(3)
    assert (harness.pool.num_processes, harness.semaphore.initial_value) == (8, 8)

    harness.pool.shrink(6)
    assert (harness.pool.num_processes, harness.semaphore.initial_value) == (2, 2)


def test_info_is_what_inspect_stats_shows(harness: Harness) -> None:
    """JSON-friendly, with the pool's own numbers."""
    assert harness.pool.info == {
        "implementation": "services.worker.pool:TaskPool",
        "max-concurrency": 5,
        "processes": [os.getpid()],
        "running": 0,
        "threads": 32,
        "timeouts": [None, None],
        "loop-lag-s": 0.0,
    }


def _raise(error: object = None, *_: object) -> None:
    raise error if isinstance(error, BaseException) else ValueError(error)
