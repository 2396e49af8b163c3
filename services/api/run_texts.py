"""The texts of the runs that are watched in this process, as far as they are known here."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple
from uuid import UUID

from services.core.live_text.wire import MAX_CALLS, MAX_CHARACTERS, Piece

KEPT_TRIES: Final = 4
"""Tries of a run whose texts are kept: the one under way, and those before it for who is late."""
READING_S: Final = 1.0
"""Seconds that a watcher waits for the texts so far, if Redis is well."""

OnChange = Callable[[], None]


class Try(NamedTuple):
    """One try of a step, under one lease."""

    fence: int
    step: str
    attempt: int


class RunTexts:
    """The texts of one run, put together from pieces that may overlap, repeat or be missing."""

    def __init__(self) -> None:
        self.is_read = asyncio.Event()
        """What was there before somebody watched was asked for, and has come."""
        self.is_wanting = True
        """Something is missing: the texts so far are to be read."""
        self.watchers: set[OnChange] = set()
        self._tries: dict[Try, dict[int, str]] = {}

    def newest_fence(self, step: str, attempt: int, *, least: int) -> int | None:
        """The highest fence under which such a try has spoken, if it is at least this one."""
        fences = [
            tried.fence for tried in self._tries if (tried.step, tried.attempt) == (step, attempt)
        ]
        return max((fence for fence in fences if fence >= least), default=None)

    def texts_of(self, tried: Try) -> Mapping[int, str]:
        """A try's texts by call."""
        return self._tries.get(tried, {})

    def take(self, piece: Piece) -> bool:
        """Take a piece; whether it is of a try that was not known.

        One that leaves a gap is dropped: the texts so far have it, and are to be read.
        """
        tried = Try(piece.fence, piece.step, piece.attempt)
        is_new = tried not in self._tries
        known = self.texts_of(tried).get(piece.call, "")
        end = piece.offset + len(piece.text)
        if piece.offset > len(known):
            self.is_wanting = True
        elif len(known) < end <= MAX_CHARACTERS:
            self._keep(tried, piece.call, known[: piece.offset] + piece.text)
        return is_new

    def take_all(self, pieces: Iterable[Piece]) -> None:
        """Take the texts so far, those of earlier tries first."""
        for piece in pieces:
            self.take(piece)
            tried = Try(piece.fence, piece.step, piece.attempt)
            if (
                tried in self._tries
            ):  # may have begun to speak here before the earlier ones were read
                self._tries[tried] = self._tries.pop(tried)
        self.is_read.set()

    def _keep(self, tried: Try, call: int, text: str) -> None:
        """Keep a text, and forget those of old tries."""
        calls = self._tries.setdefault(tried, {})
        if call in calls or len(calls) < MAX_CALLS:
            calls[call] = text
            self._tell()
        for old in list(self._tries)[:-KEPT_TRIES]:
            del self._tries[old]

    def _tell(self) -> None:
        for on_change in self.watchers:
            on_change()


class TextBoard:
    """Brings together those who watch runs and whoever reads the texts from Redis.

    One per process. Without Redis nothing comes, and nobody waits for it.
    """

    def __init__(self) -> None:
        self.runs: dict[UUID, RunTexts] = {}
        self.is_up = False
        """Redis answers."""
        self.has_work = asyncio.Event()
        """Runs came or left, or texts are to be read."""
        self.has_new_try = asyncio.Event()
        """A try has begun to speak whose beginning watchers may not have seen in the record yet."""

    @contextmanager
    def follow(self, run_id: UUID, on_change: OnChange) -> Iterator[RunTexts]:
        """The texts of a run while somebody watches it; `on_change` is called when they grow."""
        texts = self.runs.setdefault(run_id, RunTexts())
        texts.watchers.add(on_change)
        self.has_work.set()
        try:
            yield texts
        finally:
            texts.watchers.discard(on_change)
            if not texts.watchers:
                del self.runs[run_id]
                self.has_work.set()

    async def wait_until_read(self, texts: RunTexts) -> None:
        """Wait for the texts so far, if Redis is well, and for a second at most."""
        if self.is_up:
            with suppress(TimeoutError):
                async with asyncio.timeout(READING_S):
                    await texts.is_read.wait()

    def take(self, run_id: UUID, piece: Piece) -> None:
        """Take a piece that was published."""
        if texts := self.runs.get(run_id):
            if texts.take(piece):
                self.has_new_try.set()
            if texts.is_wanting:
                self.has_work.set()

    def want(self, run_id: UUID) -> None:
        """Have the texts so far read, again if need be."""
        if texts := self.runs.get(run_id):
            texts.is_wanting = True
            self.has_work.set()

    def lose_all(self) -> None:
        """Redis is away: what comes next leaves a gap that nobody may notice."""
        self.is_up = False
        for texts in self.runs.values():
            texts.is_wanting = True
