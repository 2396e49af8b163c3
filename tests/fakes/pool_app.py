"""A Celery app for tests of the asyncio pool: every way a task can behave.

Started as `celery -A tests.fakes.pool_app worker`; its Redis and limits come from POOL_APP_* variables.
"""

import asyncio
import gc
import os
import resource
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

import redis
from celery import Celery, Task, signals
from celery.exceptions import (
    Ignore,
    Reject,
    SoftTimeLimitExceeded,
    WorkerShutdown,
)
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.worker.pool import (
    PoolLimits,
    async_task,
    on_drain,
    on_loop_close,
    pool_loop,
    spawn,
    wait_for,
)
from services.worker.pool_job import Job, JobGreenlet

_ENV = os.environ  # noqa: TID251 - a test app without settings
REDIS_URL = _ENV.get("POOL_APP_REDIS_URL", "redis://127.0.0.1:1")
RESULT_URL = _ENV.get("POOL_APP_RESULT_URL", REDIS_URL)
RECORD = "pool-app:record"
"""A Redis list where the worker notes what happened in it."""

app = Celery("pool_app", broker=REDIS_URL, backend=RESULT_URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=int(_ENV.get("POOL_APP_PREFETCH", "2")),
    worker_soft_shutdown_timeout=float(_ENV.get("POOL_APP_SOFT_SHUTDOWN_S", "0")),
    worker_cancel_long_running_tasks_on_connection_loss=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"unacked_restore_interval": 1},
    result_expires=600,
    task_track_started=_ENV.get("POOL_APP_TRACK_STARTED", "1") == "1",
    worker_send_task_events=_ENV.get("POOL_APP_EVENTS") == "1",
    asyncio_pool=PoolLimits(
        shutdown_grace_s=float(_ENV.get("POOL_APP_GRACE_S", "20")),
        cleanup_s=float(_ENV.get("POOL_APP_CLEANUP_S", "1")),
        max_threads=4,
        lag_warning_s=0.5,
    ),
)
_tracer = TracerProvider().get_tracer("pool_app")
_ambient_spans: dict[str, int] = {}
_activations: dict[str, Any] = {}


def record(*facts: object) -> None:
    """Note that something happened."""
    with redis.Redis.from_url(RESULT_URL) as client:
        client.rpush(RECORD, " ".join(map(str, facts)))


@app.task
@async_task
async def sleep(seconds: float, answer: Any = None) -> Any:
    """Wait, then answer."""
    await asyncio.sleep(seconds)
    return answer


@app.task
@async_task
async def add(a: int, b: int) -> int:
    """Finish at once."""
    return a + b


@app.task
def add_now(a: int, b: int) -> int:
    """An ordinary task without any await."""
    return a + b


@app.task
def add_by_waiting(a: int, b: int) -> int:
    """An ordinary task that awaits three times."""
    total = 0
    for number in (a, b):
        total += wait_for(asyncio.sleep(0.01, number))
    return wait_for(asyncio.sleep(0, total))


@app.task
@async_task
async def fail(message: str) -> None:
    """Raise after a wait."""
    await asyncio.sleep(0.01)
    raise ValueError(message)


@app.task(
    bind=True, autoretry_for=(ConnectionError,), retry_backoff=1, retry_jitter=False, max_retries=2
)
@async_task
async def fail_until(self: Task[Any, Any], key: str, tries: int) -> int:
    """Fail with an error that is retried with backoff, until the given try."""
    await asyncio.sleep(0.01)
    with redis.Redis.from_url(RESULT_URL) as client:
        client.rpush(key, time.monotonic())
    if self.request.retries + 1 < tries:
        raise ConnectionError
    return self.request.retries


@app.task(bind=True, max_retries=1, default_retry_delay=0)
@async_task
async def retry_by_hand(self: Task[Any, Any]) -> str:
    """Use self.retry inside a coroutine."""
    await asyncio.sleep(0)
    if self.request.retries == 0:
        # Not at once: with two children the second try could end before the first has stored RETRY over it.
        raise self.retry(countdown=0.3)
    return f"retried as {self.request.id}"


@app.task(soft_time_limit=0.3, time_limit=20)
@async_task
async def catch_soft_limit() -> str:
    """Tidy up at the soft limit, inside the coroutine."""
    try:
        async with asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(30))
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.05)
        return f"caught, child cancelled: {child.cancelled()}"
    return "not interrupted"


@app.task(soft_time_limit=0.3)
def catch_soft_limit_outside() -> str:
    """Tidy up at the soft limit, around wait_for."""
    try:
        wait_for(asyncio.sleep(30))
    except SoftTimeLimitExceeded:
        return "caught"
    return "not interrupted"


@app.task(soft_time_limit=0.3)
@async_task
async def run_into_soft_limit() -> None:
    """Do nothing about the soft limit."""
    await asyncio.sleep(30)


@app.task(bind=True, time_limit=0.4)
@async_task
async def run_into_time_limit(self: Task[Any, Any]) -> None:
    """Have a finally block when the hard limit passes."""
    try:
        await asyncio.sleep(30)
    finally:
        record("cleaned-up", self.request.id)


@app.task(soft_time_limit=0.2, time_limit=0.6)
@async_task
async def ignore_soft_limit() -> str:
    """Go on after the soft limit."""
    try:
        await asyncio.sleep(30)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(30)
    return "survived"


_arrived: dict[str, asyncio.Event] = {}
_arrivals: Counter[str] = Counter()


@app.task
@async_task
async def meet(place: str, count: int) -> int:
    """End only when that many of these run at the same time."""
    everyone_is_here = _arrived.setdefault(place, asyncio.Event())
    _arrivals[place] += 1
    if _arrivals[place] == count:
        everyone_is_here.set()
    await everyone_is_here.wait()
    return _arrivals[place]


@app.task(ignore_result=True)
@async_task
async def add_without_result(a: int, b: int) -> int:
    """Finish at once, and store nothing."""
    return a + b


@app.task
@async_task
async def locate() -> tuple[int, int]:
    """Which process and which loop this runs in."""
    await asyncio.sleep(0)
    return os.getpid(), id(asyncio.get_running_loop())


@app.task
def count_leftovers() -> dict[str, int]:
    """How many jobs there are in memory, and how much memory there is (kB)."""
    gc.collect()
    kinds = Counter(type(thing) for thing in gc.get_objects())
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a pseudo file
        resident = int(statm.read().split()[1]) * resource.getpagesize() // 1024
    return {"jobs": kinds[Job], "greenlets": kinds[JobGreenlet], "resident_kb": resident}


async def _swallow_for_ever() -> str:
    for _ in range(1000):
        try:
            await asyncio.sleep(30)
        except BaseException:  # noqa: BLE001, S112 - what a hostile body does
            continue
    return "survived"


@app.task(time_limit=0.3)
@async_task
async def ignore_everything() -> str:
    """Swallow every interruption, for ever, under a time limit."""
    return await _swallow_for_ever()


@app.task
@async_task
async def swallow_for_ever() -> str:
    """Swallow every interruption, for ever, without one."""
    return await _swallow_for_ever()


@app.task(time_limit=0.3)
@async_task
async def return_after_cancellation() -> str:
    """Swallow the cancellation and return a result as if nothing had happened."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        return "survived"
    return "not interrupted"


@app.task(time_limit=0.3)
def swallow_and_wait_again() -> str:
    """An ordinary task that swallows its end and waits again."""
    try:
        wait_for(asyncio.sleep(30))
    except BaseException:  # noqa: BLE001 - what a hostile body does
        wait_for(asyncio.sleep(30))
    return "survived"


@app.task(time_limit=0.3)
def swallow_in_a_loop() -> None:
    """An ordinary task that swallows its end for ever."""
    while True:
        with suppress(BaseException):
            wait_for(asyncio.sleep(30))


@app.task(soft_time_limit=0.2, time_limit=0.4)
def block_loop(seconds: float) -> str:
    """Block the loop as CPU-bound code would."""
    time.sleep(seconds)
    return "done"


@app.task
@async_task
async def block_thread(seconds: float) -> int:
    """Block a thread instead; returns how many of these ran at once."""

    def work() -> int:
        with _threads_lock:
            _busy_threads.append(1)
            busy = len(_busy_threads)
        time.sleep(seconds)
        with _threads_lock:
            _busy_threads.pop()
        return busy

    return await asyncio.to_thread(work)


_threads_lock = threading.Lock()
_busy_threads: list[int] = []
_at_once = {"now": 0, "most": 0}


@app.task
@async_task
async def count_at_once(seconds: float) -> int:
    """Answer how many of these ran at once until now."""
    _at_once["now"] += 1
    _at_once["most"] = max(_at_once["most"], _at_once["now"])
    try:
        await asyncio.sleep(seconds)
    finally:
        _at_once["now"] -= 1
    return _at_once["most"]


@app.task(bind=True)
@async_task
async def note_cancellation(self: Task[Any, Any]) -> None:
    """Say when it started, and whether it was cancelled."""
    record("started", self.request.id)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        record("cancelled", self.request.id)
        raise


@app.task(acks_late=False, bind=True)
@async_task
async def note_cancellation_early_ack(self: Task[Any, Any]) -> None:
    """The same, acknowledged when it starts."""
    await note_cancellation_body(self.request.id)


async def note_cancellation_body(task_id: str) -> None:
    """Wait a minute; note the start and a cancellation."""
    record("started", task_id)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        record("cancelled", task_id)
        raise


@app.task
@async_task
async def await_cancelled_future() -> None:
    """Await something that somebody else cancelled."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@app.task
@async_task
async def raise_kind(kind: str) -> None:
    """Raise what a task should not."""
    await asyncio.sleep(0.01)
    raise {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "Ignore": Ignore(),
        "Reject": Reject("no"),
        "MemoryError": MemoryError(),
        "WorkerShutdown": WorkerShutdown(0),
        "CancelledError": CancelledError(),
    }[kind]


@app.task
def raise_exit_at_once() -> None:
    """Leave from ordinary code."""
    raise SystemExit(1)


@app.task
@async_task
async def leave_from_background() -> None:
    """Start a background task that tries to end the process."""

    async def leave() -> None:
        raise SystemExit(1)

    _background.append(asyncio.create_task(leave()))
    await asyncio.sleep(0.05)


_background: list[asyncio.Task[None]] = []


@app.task(bind=True)
@async_task
async def describe_context(self: Task[Any, Any]) -> dict[str, Any]:
    """Report which request and span are current before and after waiting, and in a child task."""
    before = trace.get_current_span().get_span_context().span_id
    with _tracer.start_as_current_span("inner") as inner:
        await asyncio.sleep(0.02)

        async def in_child() -> int:
            return trace.get_current_span().get_span_context().span_id

        in_child_span = await asyncio.create_task(in_child())
        parent = inner.parent.span_id if inner.parent else 0  # type: ignore[attr-defined]  # SDK span
    return {
        "request": self.request.id,
        "expected": _ambient_spans[self.request.id],
        "before": before,
        "inner_parent": parent,
        "inner": inner.get_span_context().span_id,
        "in_child": in_child_span,
        "after": trace.get_current_span().get_span_context().span_id,
    }


@signals.task_prerun.connect
def _open_span(task_id: str, **_: Any) -> None:
    span = _tracer.start_span("task")
    activation = trace.use_span(span)
    activation.__enter__()
    _activations[task_id] = activation
    _ambient_spans[task_id] = span.get_span_context().span_id


@signals.task_postrun.connect
def _close_span(task_id: str, **_: Any) -> None:
    _ambient_spans.pop(task_id, None)
    _activations.pop(task_id).__exit__(None, None, None)


def _record_signal(name: str) -> Any:
    def receiver(sender: Any = None, **fields: Any) -> None:
        request = fields.get("request")
        task_id = fields.get("task_id") or (request and request.id) or sender.request.id
        record(name, task_id)

    return receiver


if _ENV.get("POOL_APP_SIGNALS") == "1":
    _receivers = {
        name: _record_signal(name)
        for name in (
            "task_prerun",
            "task_postrun",
            "task_success",
            "task_failure",
            "task_retry",
            "task_revoked",
        )
    }
    for _name, _receiver in _receivers.items():
        getattr(signals, _name).connect(_receiver)

if _ENV.get("POOL_APP_HOOKS") == "1":

    async def _background_job() -> None:
        record("job-started")
        try:
            await asyncio.sleep(600)
        finally:
            record("job-ended")

    @signals.worker_process_init.connect
    def _start_job(**_: Any) -> None:
        with suppress(RuntimeError):  # prefork has no pool loop
            pool_loop()
            spawn(_background_job())

    @on_drain
    async def _drain(grace_s: float) -> None:
        record("drain", grace_s)
        try:
            await asyncio.sleep(min(grace_s, 0.2))
        finally:
            record("drained")

    @on_loop_close
    async def _close() -> None:
        record("closed")
