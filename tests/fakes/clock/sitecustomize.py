"""Makes the wall clock of a Python process jump: by the seconds in SHIFT_FILE, as long as it is there.

Python imports a module of this name before anything else, so that `from time import time` gets the clock that jumps.
The machine's own clock, the monotonic clock and other processes are left alone.
"""

import time
from pathlib import Path

SHIFT_FILE = Path("/tmp/clock-shift")  # noqa: S108 - a file system of the container's own
LOOK_EVERY_S = 0.2

_time, _time_ns = time.time, time.time_ns  # noqa: TID251 - what is replaced
_shift_s, _looked_at = 0.0, float("-inf")


def shift_s() -> float:
    """Seconds by which the clock is wrong."""
    global _shift_s, _looked_at  # noqa: PLW0603 - there is one clock
    if time.monotonic() - _looked_at > LOOK_EVERY_S:
        _looked_at = time.monotonic()
        try:
            _shift_s = float(SHIFT_FILE.read_text())
        except (OSError, ValueError):
            _shift_s = 0.0
    return _shift_s


def wrong_time() -> float:
    """Stand in for time.time."""
    return _time() + shift_s()


def wrong_time_ns() -> int:
    """Stand in for time.time_ns."""
    return _time_ns() + int(shift_s() * 1_000_000_000)


time.time, time.time_ns = wrong_time, wrong_time_ns  # noqa: TID251 - what it is for
