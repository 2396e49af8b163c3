"""Says whether messages still go through this worker: `python -m services.worker.liveness`.

A worker that answers pings may have stopped consuming (celery #10205). So each worker sends itself a
probe through the broker, and whoever consumes it touches a file; see probe.py.
"""

import os
import sys
import time
from pathlib import Path

MAX_AGE_S = 45.0
"""Seconds after which a file that nobody touched means a dead worker: four probes were not consumed."""


def age_s(file: Path) -> float:
    """Seconds since the file was touched; infinite if it never was."""
    try:
        touched_at = file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    return time.time() - touched_at  # noqa: TID251 - a file's time is wall clock time


def main() -> int:
    """0 if the worker is alive, else 1."""
    # Runs every few seconds: importing the settings models would cost a second of CPU each time.
    name = os.environ.get("CELERY_HEARTBEAT_FILE")  # noqa: TID251 - see above
    if not name:
        sys.stderr.write("CELERY_HEARTBEAT_FILE is not set\n")
        return 1
    age = age_s(Path(name))
    if age > MAX_AGE_S:
        sys.stderr.write(f"no message went through this worker for {age:.0f} s\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
