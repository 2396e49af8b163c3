"""How far batches are, for any number of watchers with one statement per poll."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from services.core.runs.batch_models import BatchProgress
from services.core.runs.batches import BatchRecord

POLL_S = 1.0


@dataclass(slots=True)
class _Channel:
    """One watched batch: what its watchers know, and an event that is set when there is something newer."""

    latest: BatchProgress | None = None
    watchers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Wake all who wait now; who waits later waits for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()


class BatchHub:
    """One per process. Polls the record while anybody watches; a watcher that leaves is forgotten."""

    def __init__(self, record: BatchRecord, *, poll_s: float = POLL_S) -> None:
        self._record = record
        self._poll_s = poll_s
        self._channels: dict[UUID, _Channel] = {}
        self._is_watched = asyncio.Event()
        self._is_closed = False

    @property
    def watched_batches(self) -> int:
        """Batches that somebody watches."""
        return len(self._channels)

    async def watch(self, now: BatchProgress) -> AsyncIterator[BatchProgress]:
        """The present state of a batch and each change of it, to its end or until the hub closes.

        A watcher that is slow gets the latest state, not each one between.

        Args:
            now: The present state; whether the caller may see it was checked before.
        """
        with self._channel(now.id) as channel:
            yield now
            while now.finished_at is None and not self._is_closed:
                changed, latest = channel.changed, channel.latest
                if latest is not None and latest.at > now.at and is_news(now, latest):
                    now = latest
                    yield now
                else:
                    await changed.wait()

    async def poll(self) -> float:
        """Read all watched batches with one statement; seconds to wait before the next poll."""
        await self._is_watched.wait()
        for progress in await self._record.list_progress(list(self._channels)):
            channel = self._channels.get(progress.id)
            if channel is not None:
                channel.latest = progress
                channel.wake()
        return self._poll_s

    def close(self) -> None:
        """End every stream; clients come back elsewhere and get the state at once."""
        self._is_closed = True
        for channel in self._channels.values():
            channel.wake()

    @contextmanager
    def _channel(self, batch_id: UUID) -> Iterator[_Channel]:
        channel = self._channels.setdefault(batch_id, _Channel())
        channel.watchers += 1
        self._is_watched.set()
        try:
            yield channel
        finally:
            channel.watchers -= 1
            if not channel.watchers:
                del self._channels[batch_id]
            if not self._channels:
                self._is_watched.clear()


def is_news(known: BatchProgress, latest: BatchProgress) -> bool:
    """Whether there is anything to tell; the estimate alone changes with every second."""
    return (known.counts, known.cost_usd, known.finished_at) != (
        latest.counts,
        latest.cost_usd,
        latest.finished_at,
    )
