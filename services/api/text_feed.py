"""Reads the texts of watched runs from Redis: what is there, and what comes. Without it streams go on."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from uuid import UUID

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.api.run_texts import TextBoard
from services.core.live_text.wire import (
    MAX_CALLS,
    MAX_CHARACTERS,
    CallName,
    Piece,
    channel_of,
    key_of,
)

SILENCE_S: Final = 1.0
"""Seconds without a word after which Redis is asked whether it is there; as long it has for the answer."""
WORK_PAUSE_S: Final = 0.01
"""Seconds between two rounds of reading: what is wanted meanwhile is read together."""
PAUSE_AFTER_ERROR_S: Final = 0.5
RUNS_PER_ROUND: Final = 50
MAX_BYTES: Final = 4 * MAX_CHARACTERS
"""Longest text in UTF-8."""
MAX_MESSAGE_BYTES: Final = 8 * MAX_CHARACTERS
"""Longest message that is looked at: whoever reaches Redis can publish."""


@dataclass(slots=True)
class _Subscription:
    """One connection, and what it is subscribed to."""

    pubsub: PubSub
    asked: set[UUID] = field(default_factory=set)
    """Runs to whose channels it was asked to subscribe."""
    unheard: Counter[UUID] = field(default_factory=Counter)
    """Those that Redis has yet to confirm, and how often: only then their texts so far are worth reading."""

    def hear(self, run_id: UUID) -> None:
        """Redis has confirmed that it was asked once."""
        self.unheard[run_id] -= 1
        if self.unheard[run_id] <= 0:
            del self.unheard[run_id]

    def hears(self, run_id: UUID) -> bool:
        """Whatever is published comes here: each time that it was asked for was confirmed."""
        return run_id in self.asked and run_id not in self.unheard


class TextFeed:
    """Fills the board: one subscription per process, to the channels of the runs that are watched.

    A run is subscribed to first, and then its texts so far are read, so that nothing falls between.
    """

    def __init__(self, redis: Redis, board: TextBoard, *, db: int) -> None:
        """Take a client that is nobody else's; nothing connects yet.

        Args:
            redis: Bounded in time, and without retries; `close` closes it.
            board: Says which runs are watched, and gets their texts.
            db: The number of the client's database.
        """
        self.board = board
        self._redis = redis
        self._db = db
        self._prefix = channel_of(db, "").encode()
        self._subscription: _Subscription | None = None

    async def listen(self) -> float:
        """Take what is published until the connection fails; a turn of services.api.background.

        Raises:
            RedisError: It failed, or Redis has fallen silent.
            OSError: Likewise.
        """
        subscription = _Subscription(self._redis.pubsub())
        try:
            await subscription.pubsub.ping()  # connects
            self._subscription = subscription
            self.board.has_work.set()
            await self._listen(subscription)
        finally:
            self._subscription = None
            self.board.lose_all()
            await subscription.pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py
        return 0

    async def read(self) -> float:
        """Subscribe to what is watched, and read what is wanted; a turn of services.api.background."""
        await self.board.has_work.wait()
        self.board.has_work.clear()
        if subscription := self._subscription:
            try:
                await self._subscribe(subscription)
                await self._read_wanted(subscription)
            except (RedisError, OSError):  # who listens tells
                self.board.has_work.set()
                return PAUSE_AFTER_ERROR_S
        return WORK_PAUSE_S

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _listen(self, subscription: _Subscription) -> None:
        is_asked = True
        while True:
            answer = await subscription.pubsub.parse_response(block=False, timeout=SILENCE_S)
            if answer is not None:
                is_asked = False
                self.board.is_up = True
                self._take(answer, subscription)
            elif is_asked:
                raise RedisConnectionError("Redis does not answer")
            else:
                is_asked = True
                await subscription.pubsub.ping()

    def _take(self, answer: Any, subscription: _Subscription) -> None:
        """Take a message or a confirmation; whatever else there is on the channel is nothing."""
        if not isinstance(answer, list) or len(answer) != len(("kind", "channel", "data")):
            return
        kind, channel, data = answer
        run_id = self._run_of(channel)
        if run_id is None:
            return
        if kind == b"message" and isinstance(data, bytes) and len(data) <= MAX_MESSAGE_BYTES:
            with suppress(ValidationError):
                self.board.take(run_id, Piece.model_validate_json(data))
        elif kind == b"subscribe":
            subscription.hear(run_id)
            self.board.want(run_id)

    def _run_of(self, channel: object) -> UUID | None:
        if isinstance(channel, bytes) and channel.startswith(self._prefix):
            with suppress(ValueError):
                return UUID(channel.removeprefix(self._prefix).decode())
        return None

    async def _subscribe(self, subscription: _Subscription) -> None:
        """Follow the board: which runs are watched has changed."""
        watched = set(self.board.runs)
        gone, new = subscription.asked - watched, watched - subscription.asked
        subscription.asked = watched
        subscription.unheard.update(new)
        for command, runs in (("UNSUBSCRIBE", gone), ("SUBSCRIBE", new)):
            if runs and subscription is self._subscription:
                channels = [channel_of(self._db, run_id) for run_id in runs]
                await subscription.pubsub.execute_command(command, *channels)

    async def _read_wanted(self, subscription: _Subscription) -> None:
        """Read the texts so far of those runs of which something is missing."""
        wanted = {
            run_id: texts
            for run_id, texts in self.board.runs.items()
            if texts.is_wanting and subscription.hears(run_id)
        }
        if len(wanted) > RUNS_PER_ROUND:
            self.board.has_work.set()
            wanted = dict(islice(wanted.items(), RUNS_PER_ROUND))
        for texts in wanted.values():
            texts.is_wanting = False  # before: what leaves a gap meanwhile wants another round
        try:
            lists = await self._read_names(list(wanted))
            for (run_id, texts), names in zip(wanted.items(), lists, strict=True):
                texts.take_all(await self._read_texts(run_id, names))
        except (RedisError, OSError):
            for texts in wanted.values():
                texts.is_wanting = True
            raise

    async def _read_names(self, runs: Sequence[UUID]) -> list[list[CallName]]:
        """The calls of each run that has texts."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for run_id in runs:
                pipe.lrange(channel_of(self._db, run_id), -MAX_CALLS, -1)
            lists = await pipe.execute(raise_on_error=False)
        return [list(_names(found)) if isinstance(found, list) else [] for found in lists]

    async def _read_texts(self, run_id: UUID, names: Sequence[CallName]) -> list[Piece]:
        """The texts of those calls that are still there."""
        channel = channel_of(self._db, run_id)
        async with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.getrange(key_of(channel, name), 0, MAX_BYTES - 1)
            texts = await pipe.execute(raise_on_error=False)
        return [
            Piece(**name._asdict(), offset=0, text=text.decode("utf-8", "replace"))
            for name, text in zip(names, texts, strict=True)
            if isinstance(text, bytes) and text
        ]


def _names(found: Sequence[object]) -> list[CallName]:
    """The names in a list; what is none is left out."""
    names = []
    for name in found:
        if isinstance(name, bytes):
            with suppress(ValueError):
                names.append(CallName.parse(name.decode()))
    return names
