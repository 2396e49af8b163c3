"""A limit per minute as Claude's API counts it: a bucket that fills at a steady rate."""

from collections.abc import Callable

from services.core.clock import monotonic_s

ROUNDING = 1e-6
"""What floats may leave over: a bucket that is that close to full enough is full enough."""


class TokenBucket:
    """Holds what may be used now; full at the start."""

    def __init__(
        self, per_minute: int, *, burst_s: float = 60, clock: Callable[[], float] = monotonic_s
    ) -> None:
        """Fill it.

        Args:
            per_minute: The limit, which is how fast it fills.
            burst_s: Seconds of the limit that it holds at most; 60 is a whole minute's.
            clock: Seconds that never jump.
        """
        self.per_minute = per_minute
        self.capacity = max(1.0, per_minute * burst_s / 60)
        self._rate = per_minute / 60
        self._clock = clock
        self._level = self.capacity
        self._seen_at = clock()

    @property
    def level(self) -> float:
        """What is in it now; less than nothing after more was used than it held."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._seen_at) * self._rate)
        self._seen_at = now
        return self._level

    def take(self, amount: int) -> None:
        """Use so much, whether it is there or not."""
        self._level = self.level - amount

    def wait_s(self, amount: int) -> float:
        """Seconds until there is room for so much; more than it ever holds needs it full."""
        return self._seconds_until(min(amount, self.capacity))

    @property
    def full_in_s(self) -> float:
        """Seconds until it is full again."""
        return self._seconds_until(self.capacity)

    def _seconds_until(self, level: float) -> float:
        missing = level - self.level
        return missing / self._rate if missing > ROUNDING else 0.0
