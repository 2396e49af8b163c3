"""The one source of time, so that tests can set it."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """The current time, with zone UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one door to the clock


def monotonic_s() -> float:
    """Seconds on a clock that never jumps."""
    return time.monotonic()
