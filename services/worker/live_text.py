"""Sends the text of answers to those who watch, while it comes from Claude. Best effort: no step waits for it."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from functools import cached_property
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.core.claude.protocol import OnText
from services.core.live_text.wire import (
    KEPT_AFTER_END_S,
    KEPT_FOR_S,
    MAX_CALLS,
    MAX_CHARACTERS,
    WRITE,
    CallName,
    Piece,
    channel_of,
    key_of,
)

logger = logging.getLogger(__name__)

INTERVAL_S = 0.015
"""Seconds between two sends; what comes meanwhile goes together."""
PAUSE_AFTER_ERROR_S = 0.5
SEND_TIMEOUT_S = 1.0
"""Seconds that one send may take."""
FLUSH_S = 0.1
"""Seconds that the end of a step waits for its last piece, if Redis is well."""
MAX_PER_SEND = 100
"""Calls in one send; more would block the loop, and Redis, for too long."""
MAX_CHARACTERS_PER_SEND = 262_144
"""Characters likewise; one call's text is never more."""
NAME_KNOWN = 1
"""What Redis answers when it has taken a piece."""


class CallText:
    """The text of one call, and how much of it is in Redis."""

    def __init__(self, tried: "TryText", name: CallName) -> None:
        self.tried = tried
        self.name = name
        self.text = ""
        self.key = key_of(tried.channel, name)
        self.sent = 0
        """Characters that are in Redis; 0 also if nobody knows: then all is sent again."""
        self.sent_bytes = 0

    @property
    def unsent(self) -> str:
        """What Redis has not got."""
        return self.text[self.sent :]

    def grow(self, piece: str) -> bool:
        """Take a piece, up to the bound; whether there is anything new."""
        # Lone surrogates are no characters, and UTF-8 has none of them.
        kept = piece[: MAX_CHARACTERS - len(self.text)].encode("utf-8", "replace").decode("utf-8")
        self.text += kept
        return bool(kept)


class TryText:
    """The texts of one try of a step."""

    def __init__(
        self, sender: "TextSender", run_id: UUID, *, fence: int, step: str, attempt: int
    ) -> None:
        self.calls: list[CallText] = []
        self.is_sent = True
        self.is_closed = False
        self._sent: asyncio.Event | None = None  # for a try that ends with text on its way
        self._sender = sender
        self._run_id = run_id
        self._fence, self._step, self._attempt = fence, step, attempt

    @cached_property
    def channel(self) -> str:
        """Where those who watch the run listen; most steps of a short run have nothing to say."""
        return channel_of(self._sender.db, self._run_id)

    def new_call(self) -> OnText:
        """Takes the text of one more call, piece by piece."""
        name = CallName(self._fence, self._attempt, len(self.calls), self._step)
        call = CallText(self, name)
        self.calls.append(call)

        async def take(piece: str) -> None:
            if not self.is_closed and call.grow(piece):
                self.is_sent = False
                self._sender.send_soon(call)

        return take

    async def flush(self) -> None:
        """Wait until all is sent, if Redis is well, and for a tenth of a second at most."""
        if self._sender.is_failing or self.is_sent:
            return
        self._sender.hurry()
        self._sent = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._sent.wait()

    def note_sent(self) -> None:
        """All of its texts are in Redis."""
        self.is_sent = True
        if self._sent is not None:
            self._sent.set()

    def close(self) -> None:
        """The try has ended: its texts are needed for a few seconds more."""
        self.is_closed = True
        self._sender.end(self)


class TextSender:
    """Sends the texts of all runs of one event loop, on a connection of its own.

    No task runs while there is nothing to send. After a send that failed nobody knows what Redis has,
    so all texts of open tries are sent again from their beginning.
    """

    def __init__(self, redis: Redis, *, db: int) -> None:
        """Take a client that is nobody else's; nothing connects yet.

        Args:
            redis: Bounded in time, and without retries; `close` closes it.
            db: The number of its database.
        """
        self.db = db
        self.is_failing = False
        self._redis = redis
        self._tries: set[TryText] = set()
        self._news: dict[CallText, None] = {}
        self._ended: list[TryText] = []
        self._script = ""
        self._sending: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._is_closed = False

    def open(self, run_id: UUID, *, fence: int, step: str, attempt: int) -> TryText:
        """The texts of a new try; to be closed if any text came."""
        return TryText(self, run_id, fence=fence, step=step, attempt=attempt)

    def send_soon(self, call: CallText) -> None:
        """Note that a call has new text."""
        self._tries.add(call.tried)
        self._news[call] = None
        self._begin()

    def end(self, tried: TryText) -> None:
        """Forget a try, once its texts are sent."""
        if tried in self._tries:
            self._tries.remove(tried)
            self._ended.append(tried)
            self._begin()

    def hurry(self) -> None:
        """Send what there is now."""
        self._hurry.set()

    async def close(self) -> None:
        """Stop, and close the connection; what is not sent is lost."""
        self._is_closed = True  # a cancellation can be swallowed on its way, by asyncio.wait_for
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        await self._redis.aclose()

    def _begin(self) -> None:
        if self._sending is None and not self._is_closed:
            # In an empty context: what is sent belongs to many runs, and to no span.
            self._sending = asyncio.create_task(self._send_all(), context=Context())

    async def _send_all(self) -> None:
        """Send until there is nothing left."""
        try:
            while (self._news or self._ended) and not self._is_closed:
                self._hurry.clear()
                await self._send_news()
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        PAUSE_AFTER_ERROR_S if self.is_failing else INTERVAL_S
                    ):
                        await self._hurry.wait()
        finally:
            self._sending = None

    async def _send_news(self) -> None:
        """Send what is new, once; note how that went."""
        news, self._news = self._news, {}
        ended, self._ended = self._ended, []
        try:
            for part in _parts(list(news)):
                await self._send_part(part)
            await self._expire(ended)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return
        if self.is_failing:
            logger.info("live texts go through again")
        self.is_failing = False
        waiting = {call.tried for call in self._news}
        for tried in {call.tried for call in news} - waiting:
            tried.note_sent()

    async def _send_part(self, calls: list[CallText]) -> None:
        """Send the new text of some calls in one round trip."""
        async with asyncio.timeout(SEND_TIMEOUT_S), self._redis.pipeline(transaction=False) as pipe:
            if not self._script:
                self._script = await self._redis.script_load(WRITE)
            ends = [len(call.text) for call in calls]
            for call in calls:
                pipe.evalsha(self._script, 2, call.key, call.tried.channel, *_arguments(call))
            answers = await pipe.execute()
        for call, end, answer in zip(calls, ends, answers, strict=True):
            if answer == NAME_KNOWN:
                call.sent_bytes += len(call.text[call.sent : end].encode())
                call.sent = end
            else:
                self._send_again(call.tried)

    async def _expire(self, ended: list[TryText]) -> None:
        """Let the texts of tries that have ended expire soon."""
        if not ended:
            return
        async with asyncio.timeout(SEND_TIMEOUT_S), self._redis.pipeline(transaction=False) as pipe:
            for tried in ended:
                for call in tried.calls:
                    pipe.pexpire(call.key, _ms(KEPT_AFTER_END_S))
            await pipe.execute()

    def _send_again(self, tried: TryText) -> None:
        """Redis has forgotten texts of a try: send them all, from the beginning."""
        for call in tried.calls:
            call.sent = call.sent_bytes = 0
            if call.text:
                self._news[call] = None

    def _note_failure(self, error: Exception) -> None:
        if not self.is_failing:
            logger.warning(
                "live texts do not go through (%s: %s); runs go on", type(error).__name__, error
            )
        self.is_failing = True
        self._script = ""
        # What belongs to tries that have ended is given up: it expires.
        self._news = {}
        for tried in self._tries:
            self._send_again(tried)


def _arguments(call: CallText) -> Iterator[str | int]:
    """What WRITE takes."""
    text = call.unsent
    yield call.sent_bytes
    yield text
    yield str(call.name)
    yield Piece(**call.name._asdict(), offset=call.sent, text=text).model_dump_json()
    yield _ms(KEPT_FOR_S)
    yield MAX_CALLS


def _parts(calls: list[CallText]) -> Iterator[list[CallText]]:
    """The calls in groups that are sent together."""
    part: list[CallText] = []
    room = MAX_CHARACTERS_PER_SEND
    for call in calls:
        if part and (len(part) == MAX_PER_SEND or room < len(call.unsent)):
            yield part
            part, room = [], MAX_CHARACTERS_PER_SEND
        part.append(call)
        room -= len(call.unsent)
    if part:
        yield part


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
