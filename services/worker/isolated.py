"""Executes one suspect run, alone in its process."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from uuid import UUID

from services.worker.runtime import Runtime

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What ends a run early: a terminated child, and Celery's soft time limit."""


async def execute_isolated_run(
    runtime: Runtime, run_id: UUID, *, owner: str, stop_fd: int, on_beat: Callable[[], None]
) -> bool:
    """Execute a suspect run, if it is still due; whether it was.

    Args:
        runtime: Whose keeper executes it.
        run_id: The run of the hint.
        owner: The name under which its lease is held.
        stop_fd: A pipe that becomes readable when the worker stops; the run then gets the grace
            period to end and is given back.
        on_beat: Called with each heartbeat.
    """
    shapes = runtime.identity.shapes
    lease = await runtime.store.claim_isolated_run(run_id, owner=owner, shapes=shapes)
    if lease is None:
        return False
    keeper = runtime.keeper
    over = asyncio.Event()
    stopping = asyncio.Event()
    beats = asyncio.create_task(keeper.keep_forever(on_beat))
    keeper.execute(lease, on_done=over.set)
    with _stop_requests(stop_fd, stopping.set):
        await _first_of(over, stopping)
        released = await keeper.drain(runtime.settings.shutdown_grace_s)
    beats.cancel()
    await asyncio.wait([beats])
    for suspect in released:
        runtime.publisher.hint(suspect, is_isolated=True)
    return True


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


@contextlib.contextmanager
def _stop_requests(stop_fd: int, stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` when the pipe becomes readable or a stop signal comes, instead of dying of it."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def stop_once() -> None:
        loop.remove_reader(stop_fd)
        stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    loop.add_reader(stop_fd, stop_once)
    try:
        yield
    finally:
        loop.remove_reader(stop_fd)
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
