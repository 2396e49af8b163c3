"""How long a request may wait for a record that does not answer, whatever it asks of it."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from services.api.errors import BodyTooSlowError
from services.core.clock import monotonic_s
from services.core.errors import PenstockError, StoreUnavailableError

REQUEST_S = 1.2
"""Seconds from the first question to the last answer; a client, who is promised a 503 within two, also waits for its
connection and its turn."""
SILENCE_S = 1.0
"""Seconds without an answer to anybody after which the record is away. While it answers others, what takes long is this
process or its machine: a request that is cut off then would only be repeated, and make that worse."""
TICKS = 12
"""How often a request's time is looked at in REQUEST_S: so much later than that it may end."""
BODY_S = 60.0
"""Seconds for a whole body: of 32 MB that is 4 Mbit/s. Who sends more slowly would keep a place from others."""


class Pulse:
    """When the record last answered this process, and who waits for it."""

    def __init__(self) -> None:
        self._answered_at_s = float("-inf")
        self._waiting: dict[record_deadline, None] = {}
        self._is_ticking = False

    def note(self) -> None:
        """It answered just now."""
        self._answered_at_s = monotonic_s()

    @property
    def silence_s(self) -> float:
        """Seconds since then."""
        return monotonic_s() - self._answered_at_s

    def add(self, deadline: "record_deadline") -> None:
        """Look at a request from time to time. A timer for each would take longer than all of this."""
        self._waiting[deadline] = None
        if not self._is_ticking:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(REQUEST_S / TICKS, self._tick)

    def remove(self, deadline: "record_deadline") -> None:
        """It is answered."""
        del self._waiting[deadline]

    def _tick(self) -> None:
        for deadline in tuple(self._waiting):
            deadline.check()
        self._is_ticking = bool(self._waiting)
        if self._is_ticking:
            asyncio.get_running_loop().call_later(REQUEST_S / TICKS, self._tick)


class record_deadline:  # noqa: N801 - used like a function
    """Cut off what takes longer than REQUEST_S while the record is silent; put off while it answers others.

    Each of the store's statements is bounded, but a request needs several, and waits for those of others. What is cut
    off may have been committed or not, as with any StoreUnavailableError, which the end of the time is.

    As asyncio.timeout, but without a timer of its own, and no coroutine to enter and to leave it: every request goes
    through here, and hardly any is late.
    """

    __slots__ = (
        "_cancels",
        "_ends_at_s",
        "_error",
        "_pause_ends_at_s",
        "_paused_at_s",
        "_pulse",
        "_task",
    )

    def __init__(self, pulse: Pulse, *, begins_with_body: bool = False) -> None:
        """For the task that makes it.

        Args:
            pulse: Is to know whether the record answers.
            begins_with_body: As begin_body says, from the first moment on.
        """
        self._pulse = pulse
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._cancels = self._task.cancelling() if self._task else 0
        self._error: PenstockError | None = None
        now_s = monotonic_s()
        self._ends_at_s = now_s + REQUEST_S
        self._paused_at_s = now_s if begins_with_body else None
        self._pause_ends_at_s = now_s + BODY_S

    def __enter__(self) -> Self:
        self._pulse.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pulse.remove(self)
        if self._error is None or self._task is None:
            return
        # As asyncio.timeout does it: another's cancellation stays what it is.
        if self._task.uncancel() <= self._cancels and isinstance(error, asyncio.CancelledError):
            raise self._error from error

    def begin_body(self) -> None:
        """Let time stand still, for BODY_S at most: a slow client is not a slow record."""
        self._paused_at_s = monotonic_s()
        self._pause_ends_at_s = self._paused_at_s + BODY_S

    def end_body(self) -> None:
        """The body is there."""
        self._resume()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let time stand still while the request waits for something else than the record."""
        self._paused_at_s = monotonic_s()
        self._pause_ends_at_s = math.inf
        try:
            yield
        finally:
            self._resume()

    def check(self) -> None:
        """End the request if its time is over."""
        if self._error is not None:
            return
        now_s = monotonic_s()
        if self._paused_at_s is not None:
            if now_s >= self._pause_ends_at_s:
                self._end(BodyTooSlowError())
        elif now_s >= self._ends_at_s and self._pulse.silence_s >= SILENCE_S:
            self._end(StoreUnavailableError())

    def _resume(self) -> None:
        if self._paused_at_s is not None:
            self._ends_at_s += monotonic_s() - self._paused_at_s
            self._paused_at_s = None

    def _end(self, error: PenstockError) -> None:
        self._error = error
        if self._task is not None:
            self._task.cancel()
