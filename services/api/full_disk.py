"""Remembers that PostgreSQL's disk was full: it goes on answering whoever only reads."""

from typing import Final

from services.core.clock import monotonic_s

MEMORY_S: Final = 60.0
"""Seconds that a refused write counts for; while the disk stays full there is another one before they are over."""


class FullDisk:
    """When this process was last told that there is no room; one per process."""

    def __init__(self) -> None:
        self._told_at_s: float | None = None

    def note(self) -> None:
        """A write was refused just now."""
        self._told_at_s = monotonic_s()

    @property
    def is_recent(self) -> bool:
        """Whether a write was refused a moment ago."""
        return self._told_at_s is not None and monotonic_s() - self._told_at_s < MEMORY_S
