"""How long a request may wait for a record that does not answer, whatever it asks of it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

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


class record_deadline:  # noqa: N801 - used like a function
    """Cut off what takes longer than REQUEST_S while the record is silent; put off while it answers others.

    Each of the store's statements is bounded, but a request needs several, and waits for those of others. What is cut
    off may have been committed or not, as with any StoreUnavailableError, which the end of the time is.

    A class with one timer, and not a generator: every request goes through here.
    """

    __slots__ = ("_ends_at_s", "_is_paused", "_loop", "_pulse", "_timeout", "_timer")

    def __init__(self, pulse: Pulse) -> None:
        """Take what is to know whether the record answers."""
        self._pulse = pulse
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._is_paused = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._check_at(self._loop.time() + REQUEST_S)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as timeout:
            raise StoreUnavailableError from timeout

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let time stand still while the request waits for something else than the record."""
        began_at_s = self._loop.time()
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            self._ends_at_s += self._loop.time() - began_at_s
            if self._timer.when() <= self._loop.time():  # it rang meanwhile, or is about to
                self._timer.cancel()
                self._check_at(self._ends_at_s)

    def _check_at(self, moment_s: float) -> None:
        self._ends_at_s = moment_s
        self._timer = self._loop.call_at(moment_s, self._check)

    def _check(self) -> None:
        if self._is_paused:
            return
        now_s = self._loop.time()
        ends_at_s = max(self._ends_at_s, now_s + SILENCE_S - self._pulse.silence_s)
        if ends_at_s > now_s:
            self._check_at(ends_at_s)
        else:
            self._timeout.reschedule(now_s)
