"""Tells the app that its process was asked to stop, before the server waits for open streams to end."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_stop_signal(callback: Callable[[], None]) -> Iterator[None]:
    """Call back on the loop as soon as a stop signal comes; the server's own handler runs as well.

    ASGI has no such event: a server ends the lifespan only after every response, so an event stream would hold it up
    until it is killed. Does nothing where the server takes no signals, as in tests.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals come to the main thread only.
        return
    loop = asyncio.get_running_loop()
    previous = {signum: signal.getsignal(signum) for signum in _STOP_SIGNALS}

    def stop(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        handler = previous[signal.Signals(signum)]
        if callable(handler):
            handler(signum, frame)

    chained = [signum for signum, handler in previous.items() if callable(handler)]
    for signum in chained:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum in chained:
            signal.signal(signum, previous[signum])
