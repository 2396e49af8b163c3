"""The app learns early that its process shall stop."""

import asyncio
import signal

from services.api.shutdown import on_stop_signal


async def test_a_stop_signal_reaches_the_app_and_the_server() -> None:
    """The server's own handler still runs, and is back in its place afterwards."""
    received: list[int] = []
    told = asyncio.Event()

    def server(signum: int, _frame: object) -> None:
        received.append(signum)

    original = signal.signal(signal.SIGTERM, server)
    try:
        with on_stop_signal(told.set):
            signal.raise_signal(signal.SIGTERM)
            async with asyncio.timeout(2):
                await told.wait()
        assert signal.getsignal(signal.SIGTERM) is server
    finally:
        signal.signal(signal.SIGTERM, original)

    assert received == [signal.SIGTERM]


async def test_where_no_server_takes_signals_nothing_is_changed() -> None:
    """A default action stays a default action."""
    original = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with on_stop_signal(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, original)
