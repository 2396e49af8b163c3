"""How long a request may wait for the record in all, whatever it asks of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.core.errors import StoreUnavailableError

REQUEST_S = 1.6
"""Seconds from the first question to the last answer; a client, who is promised a 503 within two,
also waits for its connection and its turn."""


class Deadline:
    """The end of a request's time."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let time stand still while the request waits for something else than the record."""
        end_s = self._timeout.when()
        assert end_s is not None  # noqa: S101 - pauses are not nested
        loop = asyncio.get_running_loop()
        left_s = end_s - loop.time()
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._timeout.reschedule(loop.time() + left_s)


@asynccontextmanager
async def record_deadline() -> AsyncIterator[Deadline]:
    """Cut off what takes longer than REQUEST_S.

    Each of the store's statements is bounded, but a request needs several. What is cut off may have been committed or
    not, as with any StoreUnavailableError.

    Raises:
        StoreUnavailableError: The time is over.
    """
    timeout = asyncio.timeout(REQUEST_S)
    try:
        async with timeout:
            yield Deadline(timeout)
    except TimeoutError as error:
        if timeout.expired():
            raise StoreUnavailableError from error
        raise
