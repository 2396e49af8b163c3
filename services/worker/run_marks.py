"""Marks in the flight recorder which run is on the CPU: around each step of each of its tasks.

Coroutines only. Code in threads is not marked: if it ends the process, nobody is charged.
"""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar
from uuid import UUID

from services.core.errors import StepExitError
from services.worker.flight_recorder import RUN, FlightRecorder

Result = TypeVar("Result")
AnyCoroutine = Coroutine[Any, Any, Result] | Generator[Any, None, Result]

_run_of_context: ContextVar[bytes | None] = ContextVar("run_of_context", default=None)


def context_of(run_id: UUID) -> Context:
    """The context for a task that executes the run; what it spawns belongs to the run, too."""
    context = copy_context()
    context.run(_run_of_context.set, run_id.bytes)
    return context


def mark_runs(loop: asyncio.AbstractEventLoop, recorder: FlightRecorder) -> None:
    """From now on have the loop's tasks marked that belong to a run."""

    def create_task(
        loop: asyncio.AbstractEventLoop,
        coroutine: AnyCoroutine[Result],
        *,
        context: Context | None = None,
        **options: Any,
    ) -> "asyncio.Task[Result]":
        run = _run_of_context.get() if context is None else context.get(_run_of_context)
        if run is not None:
            coroutine = MarkedCoroutine(coroutine, recorder, run)
        return asyncio.Task(coroutine, loop=loop, context=context, **options)

    loop.set_task_factory(create_task)


class MarkedCoroutine(Coroutine[Any, Any, Result]):
    """A coroutine of a run: while it takes a step, the recorder names the run.

    A class and not a coroutine around it: a task that is cancelled before its first step passes the
    cancellation on here too, so that the inner coroutine is closed instead of forgotten.
    """

    __slots__ = ("_coroutine", "_recorder", "_run", "_send")

    def __init__(
        self,
        coroutine: AnyCoroutine[Result],
        recorder: FlightRecorder,
        run: bytes,
    ) -> None:
        self._coroutine = coroutine
        self._recorder = recorder
        self._run = run
        self._send = coroutine.send

    def __getattr__(self, name: str) -> Any:
        """What asyncio and others look at for stacks and states (cr_frame, cr_running, ...)."""
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, None, Result]:
        raise TypeError("a task drives this; nobody awaits it")

    def send(self, value: Any) -> Any:
        """Take a step, marked."""
        recorder = self._recorder
        before = recorder.on_cpu  # a task that starts eagerly steps within the step of another
        # Written out, not by mark(): this is done for each step of each run.
        recorder.on_cpu = recorder.memory[RUN] = self._run
        try:
            return self._send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            # asyncio would let these out of the loop, and end everybody's process.
            raise StepExitError from error
        finally:
            recorder.on_cpu = recorder.memory[RUN] = before

    def throw(self, *error: Any) -> Any:
        """Take a step with an exception, marked."""
        recorder = self._recorder
        before = recorder.on_cpu
        recorder.mark(self._run)
        try:
            return self._coroutine.throw(*error)
        except (SystemExit, KeyboardInterrupt) as left:
            raise StepExitError from left
        finally:
            recorder.mark(before)

    def close(self) -> None:
        """Close it; what its `finally` blocks do is marked, too."""
        before = self._recorder.on_cpu
        self._recorder.mark(self._run)
        try:
            self._coroutine.close()
        finally:
            self._recorder.mark(before)
