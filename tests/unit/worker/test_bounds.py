"""Other people's code, within a time and a task of its own."""

import asyncio
from concurrent.futures import CancelledError as AwaitCancelledError

import pytest

from services.core.errors import StepExitError
from services.worker.bounds import TookTooLongError, run_within


async def test_it_gives_what_the_call_gives() -> None:
    """A call that ends in time is as if it had been awaited."""

    async def answer() -> str:
        await asyncio.sleep(0)
        return "done"

    assert "done" == await run_within(1, answer, what="a call")


async def test_an_error_passes_through() -> None:
    """Whatever the call raises is for the caller to judge."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_within(1, fail, what="a call")


async def test_a_call_that_takes_too_long_may_tidy_up() -> None:
    """It is cancelled, and its `finally` blocks are waited for."""
    tidied = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            tidied.set()

    with pytest.raises(TookTooLongError):
        await run_within(0.02, wait, what="a call")

    assert tidied.is_set()


async def test_without_time_left_nothing_is_called() -> None:
    """A deadline that has passed costs no call."""
    called = []

    async def call() -> None:
        called.append(1)

    with pytest.raises(TookTooLongError):
        await run_within(0, call, what="a call")

    assert [] == called


async def test_the_callers_cancellation_reaches_the_call() -> None:
    """Cutting off a run cuts off its call to Claude."""
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(run_within(60, wait, what="a call"))
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_cancellation_of_others_is_an_error() -> None:
    """What the call awaited was cancelled, but nobody cancelled the caller."""

    async def wait_for_cancelled() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    with pytest.raises(AwaitCancelledError):
        await run_within(1, wait_for_cancelled, what="a call")


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt()])
async def test_a_call_cannot_end_the_process(end: BaseException) -> None:
    """sys.exit() is an error of this call and nobody else's end."""

    async def leave() -> None:
        raise end

    with pytest.raises(StepExitError):
        await run_within(1, leave, what="a call")


async def test_a_call_that_swallows_its_cancellation_is_abandoned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds nobody up, is never stepped again, and the log names it."""
    monkeypatch.setattr("services.worker.bounds.CLEANUP_S", 0.03)
    steps = []

    async def resist() -> None:
        while True:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
            steps.append(1)

    with pytest.raises(TookTooLongError):
        await run_within(0.02, resist, what="step two")
    count = len(steps)
    await asyncio.sleep(0.05)

    assert count == len(steps)
    assert "step two ignored its cancellation" in caplog.text
