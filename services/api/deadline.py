"""How long a request may wait for a record that does not answer, whatever it asks of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.core.clock import monotonic_s
from services.core.errors import StoreUnavailableError

REQUEST_S = 1.2
"""Seconds from the first question to the last answer; a client, who is promised a 503 within two, also waits for its
connection and its turn."""
SILENCE_S = 1.0
"""Seconds without an answer to anybody after which the record is away. While it answers others, what takes long is this
process or its machine: a request that is cut off then would only be repeated, and make that worse."""


class Pulse:
    """When the record last answered this process."""

    def __init__(self) -> None:
        self._answered_at_s = float("-inf")

    def note(self) -> None:
        """It answered just now."""
        self._answered_at_s = monotonic_s()

    @property
    def silence_s(self) -> float:
        """Seconds since then."""
        return monotonic_s() - self._answered_at_s


class Deadline:
    """The end of a request's time; put off while the record answers others."""

    def __init__(self, timeout: asyncio.Timeout, pulse: Pulse) -> None:
        self._timeout = timeout
        self._pulse = pulse
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(REQUEST_S, self._check)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let time stand still while the request waits for something else than the record."""
        left_s = self._timer.when() - self._loop.time()
        self._timer.cancel()
        try:
            yield
        finally:
            self._timer = self._loop.call_later(left_s, self._check)

    def end(self) -> None:
        """The request has its answer."""
        self._timer.cancel()

    def _check(self) -> None:
        left_s = SILENCE_S - self._pulse.silence_s
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check)
        else:
            self._timeout.reschedule(self._loop.time())


@asynccontextmanager
async def record_deadline(pulse: Pulse) -> AsyncIterator[Deadline]:
    """Cut off what takes longer than REQUEST_S while the record is silent.

    Each of the store's statements is bounded, but a request needs several, and waits for those of others. What is cut
    off may have been committed or not, as with any StoreUnavailableError.

    Args:
        pulse: Whether the record answers.

    Raises:
        StoreUnavailableError: The time is over.
    """
    timeout = asyncio.timeout(None)
    try:
        async with timeout:
            deadline = Deadline(timeout, pulse)
            try:
                yield deadline
            finally:
                deadline.end()
    except TimeoutError as error:
        if timeout.expired():
            raise StoreUnavailableError from error
        raise
