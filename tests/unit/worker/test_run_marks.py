"""Which run is on the CPU, step by step."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import Context
from uuid import UUID, uuid4

import pytest

from services.core.errors import StepExitError
from services.worker.flight_recorder import FlightRecorder
from services.worker.run_marks import MarkedCoroutine, context_of, mark_runs

RUN, OTHER = uuid4(), uuid4()


@pytest.fixture
async def recorder() -> AsyncIterator[FlightRecorder]:
    """Marks the runs of the test's loop."""
    loop = asyncio.get_running_loop()
    recorder = FlightRecorder()
    mark_runs(loop, recorder)
    yield recorder
    loop.set_task_factory(None)


def _spawn(coroutine, run_id: UUID = RUN) -> "asyncio.Task":
    return asyncio.create_task(coroutine, context=context_of(run_id))


async def test_a_step_is_marked_from_its_begin_to_its_await(recorder: FlightRecorder) -> None:
    """Whoever waits is not on the CPU."""
    seen = []
    may_go_on = asyncio.Event()

    async def step() -> str:
        seen.append(recorder.run_on_cpu)
        await may_go_on.wait()
        seen.append(recorder.run_on_cpu)
        return "done"

    task = _spawn(step())
    await asyncio.sleep(0)
    meanwhile = recorder.run_on_cpu
    may_go_on.set()

    assert "done" == await task
    assert ([RUN.hex, RUN.hex], None) == (seen, meanwhile)
    assert recorder.run_on_cpu is None


async def test_what_a_run_spawns_belongs_to_it(recorder: FlightRecorder) -> None:
    """Tasks and tasks of tasks inherit the run; those with a context of their own do not."""
    seen: dict[str, str | None] = {}

    async def note(name: str) -> None:
        await asyncio.sleep(0)
        seen[name] = recorder.run_on_cpu

    async def child() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(note("grandchild"))
        await note("child")

    async def step() -> None:
        await asyncio.gather(child(), note("sibling"))
        await asyncio.create_task(note("stranger"), context=Context())

    await _spawn(step())

    assert {
        "grandchild": RUN.hex,
        "child": RUN.hex,
        "sibling": RUN.hex,
        "stranger": None,
    } == seen


async def test_runs_take_turns(recorder: FlightRecorder) -> None:
    """Each step is marked with its own run."""
    seen: dict[UUID, set[str | None]] = {RUN: set(), OTHER: set()}

    async def step(run_id: UUID) -> None:
        for _ in range(10):
            seen[run_id].add(recorder.run_on_cpu)
            await asyncio.sleep(0)

    await asyncio.gather(_spawn(step(RUN), RUN), _spawn(step(OTHER), OTHER))

    assert {RUN: {RUN.hex}, OTHER: {OTHER.hex}} == seen


async def test_tidying_up_is_marked_too(recorder: FlightRecorder) -> None:
    """A cancellation and a close are steps like any other."""
    seen = []

    async def step() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(recorder.run_on_cpu)

    cancelled, closed = _spawn(step()), _spawn(step())
    await asyncio.sleep(0)
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled
    coroutine = closed.get_coro()
    coroutine.close()
    closed.cancel()
    with suppress(RuntimeError):  # its coroutine has ended behind its back
        await closed

    assert [RUN.hex, RUN.hex] == seen
    assert recorder.run_on_cpu is None


async def test_a_nested_step_gives_the_mark_back(recorder: FlightRecorder) -> None:
    """A task that starts eagerly steps within the step of another run's."""
    seen = []

    async def inner() -> None:
        seen.append(recorder.run_on_cpu)

    async def outer() -> None:
        nested = MarkedCoroutine(inner(), recorder, OTHER.bytes)
        with suppress(StopIteration):
            nested.send(None)
        seen.append(recorder.run_on_cpu)

    await _spawn(outer())

    assert [OTHER.hex, RUN.hex] == seen


async def test_other_tasks_are_left_alone(recorder: FlightRecorder) -> None:
    """What belongs to no run is an ordinary task."""

    async def work() -> None:
        assert recorder.run_on_cpu is None

    task = asyncio.create_task(work(), name="work")
    await task

    assert ("work", True) == (task.get_name(), inspect.iscoroutine(task.get_coro()))


async def test_errors_and_results_pass_through(recorder: FlightRecorder) -> None:
    """A marked task ends as its coroutine does."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await _spawn(fail())

    assert recorder.run_on_cpu is None


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt()])
async def test_a_task_of_a_run_cannot_end_the_loop(
    recorder: FlightRecorder, end: BaseException
) -> None:
    """asyncio lets SystemExit out of any task; of a run's it is an error like any other."""

    async def leave() -> None:
        await asyncio.sleep(0)
        raise end

    with pytest.raises(StepExitError):
        await _spawn(leave())


async def test_a_task_cancelled_before_its_first_step_leaves_nothing(
    recorder: FlightRecorder, recwarn: pytest.WarningsRecorder
) -> None:
    """Its coroutine is closed: Python would warn of one that was never awaited."""

    async def never() -> None:
        pytest.fail("it was cancelled before it began")

    task = _spawn(never())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()

    assert [] == list(recwarn)


async def test_a_marked_task_shows_its_stack(recorder: FlightRecorder) -> None:
    """Logs and debuggers see the coroutine, not its wrapping."""

    async def wait_here() -> None:
        await asyncio.sleep(60)

    task = _spawn(wait_here())
    await asyncio.sleep(0)

    assert inspect.CORO_SUSPENDED == inspect.getcoroutinestate(task.get_coro())
    assert ["wait_here"] == [frame.f_code.co_name for frame in task.get_stack()]
    assert "wait_here" in repr(task)
    task.cancel()
