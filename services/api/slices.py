"""Long computations in slices, between which the loop serves others."""

import asyncio
from typing import Final

from services.core.clock import monotonic_s

SLICE_S: Final = 0.01
"""Seconds for which one computation may hold the loop; nobody notices so little."""


class Slices:
    """Counts the time of one computation."""

    def __init__(self) -> None:
        self._began_s = monotonic_s()

    async def give_way(self) -> None:
        """Let the loop turn if the slice is over; call it between two small pieces."""
        if monotonic_s() - self._began_s >= SLICE_S:
            await asyncio.sleep(0)
            self._began_s = monotonic_s()
