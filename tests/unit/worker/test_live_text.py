"""What a worker sends of its texts, and how it bears a Redis that does not take them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from services.core.live_text.wire import Piece
from services.worker import live_text
from services.worker.live_text import TextSender, TryText
from tests.fakes.waiting import until

RUN_ID = UUID("0193588b-2f6b-7d3c-8d2f-4b8f0a1c2d3e")


class Pipeline:
    """Commands that go together."""

    def __init__(self, redis: "FakeRedis") -> None:
        self._redis = redis
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is held."""

    def evalsha(self, script: str, _keys: int, *arguments: Any) -> None:
        """The script that keeps and publishes."""
        self._commands.append(("write", *arguments))

    def pexpire(self, key: str, ttl_ms: int) -> None:
        """The end of a text."""
        self._commands.append(("expire", key, ttl_ms))

    async def execute(self) -> list[int]:
        """Do them all."""
        await asyncio.sleep(0)
        if self._redis.is_away:
            raise RedisConnectionError("away")
        return [self._redis.do(*command) for command in self._commands]


class FakeRedis:
    """Keeps texts as the script does; can forget, and be away."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.published: list[Piece] = []
        self.sends = 0
        self.expired: list[str] = []
        self.is_away = False

    def pipeline(self, *, transaction: bool) -> Pipeline:
        """Commands that go together."""
        self.sends += 1
        return Pipeline(self)

    async def script_load(self, script: str) -> str:
        """Know the script."""
        if self.is_away:
            raise RedisConnectionError("away")
        return "sha"

    def do(self, command: str, key: str, *arguments: Any) -> int:
        """One command."""
        if command == "expire":
            self.expired.append(key)
            return 1
        _channel, before, text, _name, message, *_ = arguments
        if before and len(self.texts.get(key, "").encode()) != before:
            return 0
        self.texts[key] = self.texts.get(key, "") * bool(before) + text
        self.published.append(Piece.model_validate_json(message))
        return 1

    async def aclose(self) -> None:
        """Nothing is open."""


@pytest.fixture
def redis() -> FakeRedis:
    """Redis."""
    return FakeRedis()


@pytest.fixture
async def sender(redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TextSender]:
    """A sender that does not pause for long."""
    monkeypatch.setattr(live_text, "PAUSE_AFTER_ERROR_S", 0.02)
    sender = TextSender(redis, db=0)  # type: ignore[arg-type]  # it has the methods that the sender uses
    yield sender
    await sender.close()


def open_try(sender: TextSender) -> TryText:
    """A try."""
    return sender.open(RUN_ID, fence=1, step="write", attempt=1)


async def test_the_first_piece_goes_at_once_and_the_others_together(
    sender: TextSender, redis: FakeRedis
) -> None:
    """Each with its place."""
    take = open_try(sender).new_call()
    await take("D")
    await until(lambda: bool(redis.published))
    for letter in "ear 🌊 Ada":
        await take(letter)
        await asyncio.sleep(0)

    await until(lambda: list(redis.texts.values()) == ["Dear 🌊 Ada"])
    assert [(0, "D"), (1, "ear 🌊 Ada")] == [(p.offset, p.text) for p in redis.published]


async def test_calls_of_all_runs_go_in_one_round_trip(sender: TextSender, redis: FakeRedis) -> None:
    """However many speak."""
    takes = [open_try(sender).new_call() for _ in range(50)]
    await asyncio.gather(*(take("text") for take in takes))

    await until(lambda: len(redis.published) == 50)
    assert redis.sends == 1


async def test_what_redis_has_forgotten_is_sent_again_from_the_beginning(
    sender: TextSender, redis: FakeRedis
) -> None:
    """All calls of the try: who has lost one has lost the others."""
    tried = open_try(sender)
    first, second = tried.new_call(), tried.new_call()
    await asyncio.gather(first("Dear"), second("Hello"))
    await tried.flush()
    redis.texts.clear()
    await first(" Ada")
    await tried.flush()

    assert ["Dear Ada", "Hello"] == sorted(redis.texts.values())


async def test_an_outage_costs_no_step_any_time_and_no_watcher_any_text(
    sender: TextSender, redis: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """While it lasts nobody waits; it is told once at its beginning and once at its end."""
    caplog.set_level("INFO", logger=live_text.__name__)
    redis.is_away = True
    tried = open_try(sender)
    take = tried.new_call()
    for letter in "Dear Ada":
        await take(letter)
        await asyncio.sleep(0.01)
    async with asyncio.timeout(live_text.FLUSH_S / 2):
        await tried.flush()
    redis.is_away = False

    await until(lambda: list(redis.texts.values()) == ["Dear Ada"])
    await until(lambda: not sender.is_failing)
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


async def test_a_try_that_has_ended_during_an_outage_is_given_up(
    sender: TextSender, redis: FakeRedis
) -> None:
    """Its texts would only take memory: what counts is in the record."""
    redis.is_away = True
    tried = open_try(sender)
    await tried.new_call()("text")
    tried.close()
    await until(lambda: sender.is_failing)

    await until(lambda: sender._sending is None)
    assert (set(), {}) == (sender._tries, sender._news)


async def test_the_end_of_a_try_lets_its_texts_expire(sender: TextSender, redis: FakeRedis) -> None:
    """After its last piece was sent; one that comes later is dropped."""
    tried = open_try(sender)
    take = tried.new_call()
    await take("text")
    tried.close()
    await take(" of an abandoned step")

    await until(lambda: bool(redis.expired))
    assert redis.expired == list(redis.texts)
    assert ["text"] == list(redis.texts.values())


async def test_a_try_without_text_sends_nothing(sender: TextSender, redis: FakeRedis) -> None:
    """Most steps of some pipelines never ask Claude."""
    tried = open_try(sender)
    tried.new_call()
    await tried.flush()
    tried.close()
    await asyncio.sleep(0.05)

    assert redis.sends == 0


async def test_text_is_bounded_and_of_characters(
    sender: TextSender, redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a pair is none; what is beyond the bound is left out."""
    monkeypatch.setattr(live_text, "MAX_CHARACTERS", 6)
    tried = open_try(sender)
    take = tried.new_call()
    for piece in ("ab\ud800", "🌊🌊", "xyz", "more"):
        await take(piece)
    await tried.flush()

    assert ["ab?🌊🌊x"] == list(redis.texts.values())


async def test_a_large_text_goes_alone(sender: TextSender, redis: FakeRedis) -> None:
    """After an outage all texts are sent again, and neither the loop nor Redis is to be blocked by that."""
    takes = [open_try(sender).new_call() for _ in range(4)]
    await asyncio.gather(*(take("x" * 200_000) for take in takes))

    await until(lambda: len(redis.published) == 4)
    assert redis.sends == 4


async def test_closing_ends_it_whatever_waits(sender: TextSender, redis: FakeRedis) -> None:
    """A worker's end is not held up by Redis."""
    redis.is_away = True
    await open_try(sender).new_call()("text")
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        await sender.close()

    await open_try(sender).new_call()("after the end")
    assert sender._sending is None
