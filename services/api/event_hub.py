"""Live events for any number of watchers with one statement per poll, whatever process wrote the events.

Texts of answers that are being written come from another place, and are put between them.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

from services.api.run_texts import TextBoard
from services.api.watching import Delta, Watching
from services.core.errors import StoreUnavailableError
from services.core.runs.models import Event
from services.core.runs.states import FINAL_EVENTS
from services.core.runs.store import RunStore

logger = logging.getLogger(__name__)

POLL_S = 0.1
LEAST_POLL_S = 0.01
"""Seconds between two polls when texts of new tries come: their beginnings are in the record already."""
PAGE = 1000
"""Events read with one statement; a full page is followed by the next at once."""
MAX_BUFFERED = 256
"""Events that wait for a slow watcher; one that falls further behind reads from the record at its own pace."""
OUTAGE_PAUSE_S = 1.0


class Tail:
    """New events and texts of one run for one watcher; ends when it falls behind or the hub closes."""

    __slots__ = ("_changed", "_events", "_is_cut", "_last_seq", "_watching")

    def __init__(self, after: int, watching: Watching, changed: asyncio.Event) -> None:
        self._last_seq = after
        self._watching = watching
        self._events: list[
            Event
        ] = []  # hardly ever more than one; an empty deque is ten times as large
        self._changed = changed
        self._is_cut = False

    def offer(self, event: Event) -> None:
        """Take the event if it is the next one."""
        if self._is_cut or event.seq <= self._last_seq:
            return
        if event.seq > self._last_seq + 1 or len(self._events) >= MAX_BUFFERED:
            self.cut()
            return
        self._events.append(event)
        self._last_seq = event.seq
        self._changed.set()

    def cut(self) -> None:
        """Give what waits, then end."""
        self._is_cut = True
        self._changed.set()

    async def read(self) -> AsyncIterator[Event | Delta]:
        """Each event and piece of text as it comes."""
        while True:
            self._changed.clear()
            while self._events:
                for item in self._watching.pass_on(self._events.pop(0)):
                    yield item
            for delta in self._watching.deltas():
                yield delta
            if self._is_cut and not self._events:
                return
            await self._changed.wait()


@dataclass(slots=True)
class _Channel:
    """One watched run: how far it was polled, and by whom it is watched."""

    last_seq: int
    tails: set[Tail] = field(default_factory=set)


class EventHub:
    """One per process. Polls the record while anybody watches; a watcher that leaves is forgotten."""

    def __init__(self, store: RunStore, texts: TextBoard, *, poll_s: float = POLL_S) -> None:
        self._store = store
        self._texts = texts
        self._poll_s = poll_s
        self._channels: dict[UUID, _Channel] = {}
        self._is_watched = asyncio.Event()
        self._is_closed = False

    @property
    def watched_runs(self) -> int:
        """Runs that somebody watches."""
        return len(self._channels)

    async def watch(self, run_id: UUID, *, after: int) -> AsyncIterator[Event | Delta]:
        """Events of a run, none missed and none twice, to the final one that nothing follows or until the hub closes.

        A run that was replayed has a final event in the middle. Whether one is the last is for the record to say: it is
        asked again after each. A replay that comes later finds the stream ended, as any replay of an ended run does.

        Texts of the try that is open come between them: first those so far, from their beginning.

        Args:
            run_id: The run; whether the caller may see it was checked before.
            after: The last seq that the client has, which is not the run's last event if that is a final one; 0 for
                all events.
        """
        changed = asyncio.Event()
        with self._texts.follow(run_id, changed.set) as texts:
            await self._texts.wait_until_read(texts)
            watching = Watching(texts)
            # From the beginning: what the client has seen tells which try is open.
            async for event in self._read_record(run_id, 0, up_to=after):
                watching.note(event)
            async with aclosing(self._watch(run_id, after, watching, changed)) as items:
                async for item in items:
                    yield item

    async def _watch(
        self, run_id: UUID, after: int, watching: Watching, changed: asyncio.Event
    ) -> AsyncGenerator[Event | Delta]:
        has_ended = False
        while not self._is_closed:
            async for event in self._read_record(run_id, after):
                for item in watching.pass_on(event):
                    yield item
                after, has_ended = event.seq, event.type in FINAL_EVENTS
            if has_ended:
                return
            with self._tail(run_id, Tail(after, watching, changed), after) as tail:
                async for item in tail.read():
                    yield item
                    if isinstance(item, Event):
                        after, has_ended = item.seq, item.type in FINAL_EVENTS
                    if has_ended:
                        break

    async def poll(self) -> float:
        """Fetch what is new for all watched runs with one statement; seconds to wait before the next poll."""
        await self._is_watched.wait()
        self._texts.has_new_try.clear()
        positions = {run_id: channel.last_seq for run_id, channel in self._channels.items()}
        events = await self._store.list_events(positions, limit=PAGE)
        for event in events:
            self._deliver(event)
        if len(events) == PAGE:
            return 0
        least_s = min(LEAST_POLL_S, self._poll_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s - least_s):
                await self._texts.has_new_try.wait()
        return least_s

    def close(self) -> None:
        """End every stream after what it has already; clients resume elsewhere with Last-Event-ID."""
        self._is_closed = True
        for channel in self._channels.values():
            for tail in channel.tails:
                tail.cut()

    def _deliver(self, event: Event) -> None:
        channel = self._channels.get(event.run_id)
        if channel is None:
            return
        channel.last_seq = max(channel.last_seq, event.seq)
        for tail in channel.tails:
            tail.offer(event)

    async def _read_record(
        self, run_id: UUID, after: int, *, up_to: int | None = None
    ) -> AsyncIterator[Event]:
        """What the record has already, page by page, at the watcher's own pace."""
        while not self._is_closed and (up_to is None or after < up_to):
            try:
                events = await self._store.list_events({run_id: after}, limit=PAGE)
            except StoreUnavailableError:
                # The stream outlives the outage: its client would only come back to a 503.
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            for event in events:
                if up_to is not None and event.seq > up_to:
                    return
                yield event
                after = event.seq
            if len(events) < PAGE:
                return

    @contextmanager
    def _tail(self, run_id: UUID, tail: Tail, after: int) -> Iterator[Tail]:
        channel = self._channels.setdefault(run_id, _Channel(after))
        channel.tails.add(tail)
        self._is_watched.set()
        if channel.last_seq > after or self._is_closed:
            tail.cut()  # Others are ahead: read on from the record first.
        try:
            yield tail
        finally:
            channel.tails.discard(tail)
            if not channel.tails:
                del self._channels[run_id]
            if not self._channels:
                self._is_watched.clear()
