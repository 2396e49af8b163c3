"""The text of a step's calls, for those who watch the run."""

from collections.abc import Awaitable, Callable

from services.core.clock import monotonic_s
from services.core.errors import StoreUnavailableError

TEXT_INTERVAL_S = 0.15
"""Seconds between two pieces of text in the record: quick enough to read along, far fewer rows."""
STORE_AWAY_PAUSE_S = 5.0
"""Seconds without a further try after PostgreSQL did not take a piece: Claude's stream goes on."""
RecordText = Callable[[str], Awaitable[None]]


class TextStream:
    """Gathers pieces of text and records them in larger ones."""

    def __init__(self, record: RecordText, *, now_s: Callable[[], float] = monotonic_s) -> None:
        self._record = record
        self._now_s = now_s
        self._pieces: list[str] = []
        self._due_at_s = float("-inf")

    async def add(self, piece: str) -> None:
        """Take a piece; the first is recorded at once, the others with the next interval."""
        self._pieces.append(piece)
        if self._now_s() < self._due_at_s:
            return
        try:
            await self.flush()
        except StoreUnavailableError:
            self._due_at_s = self._now_s() + STORE_AWAY_PAUSE_S

    async def flush(self) -> None:
        """Record what was gathered; kept for the next time if PostgreSQL is away."""
        if not self._pieces:
            return
        # Taken before the wait: calls at once add to the list, and flush it, meanwhile.
        taken, self._pieces = self._pieces, []
        try:
            await self._record("".join(taken))
        except StoreUnavailableError:
            self._pieces[:0] = taken
            raise
        self._due_at_s = self._now_s() + TEXT_INTERVAL_S
