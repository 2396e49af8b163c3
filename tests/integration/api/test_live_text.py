"""Texts from a worker's sender through a real Redis to those who watch, whatever becomes of Redis."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID, uuid4

import pytest
import redis

from config.redis import RedisSettings
from services.api.background import in_background
from services.api.run_texts import RunTexts, TextBoard, Try
from services.api.text_feed import TextFeed
from services.core.claude.protocol import OnText
from services.core.live_text.client import create_client
from services.core.live_text.wire import (
    KEPT_AFTER_END_S,
    KEPT_FOR_S,
    MAX_CHARACTERS,
    Piece,
    channel_of,
)
from services.worker.live_text import TextSender, TryText
from tests.fakes.waiting import until
from tests.integration.fragile_redis import STATES, FragileRedis

STEP = "write"
ODD = 'Zoë 🌊\u2028"\\\r\n\x00'
TRY = Try(1, STEP, 1)


@asynccontextmanager
async def sender_on(settings: RedisSettings) -> AsyncIterator[TextSender]:
    """What a worker sends with."""
    sender = TextSender(create_client(settings), db=settings.db)
    yield sender
    await sender.close()


@asynccontextmanager
async def board_on(settings: RedisSettings) -> AsyncIterator[TextBoard]:
    """What an API process knows."""
    feed = TextFeed(create_client(settings), TextBoard(), db=settings.db)
    async with in_background(("listening", feed.listen), ("reading", feed.read)):
        yield feed.board
    await feed.close()


def open_try(sender: TextSender, run_id: UUID, *, fence: int = 1) -> TryText:
    """A try of a step."""
    return sender.open(run_id, fence=fence, step=STEP, attempt=1)


async def say(tried: TryText, *texts: str, pause_s: float = 0.002) -> None:
    """A call that says these texts, each letter by letter."""
    take = tried.new_call()
    for letter in "".join(texts):
        await take(letter)
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize("db", [0, 3])
async def test_text_comes_to_who_watches_before_and_after(
    clean_redis: RedisSettings, db: int
) -> None:
    """In any database: who comes late gets the text so far, and then the same as the others."""
    settings = clean_redis.model_copy(update={"db": db})
    run_id = uuid4()
    async with (
        sender_on(settings) as sender,
        board_on(settings) as early,
        board_on(settings) as late,
    ):
        with early.follow(run_id, lambda: None) as first:
            tried = open_try(sender, run_id)
            await say(tried, ODD * 3)
            with late.follow(run_id, lambda: None) as second:
                await say(tried, "another call")
                await tried.flush()
                expected = {0: ODD * 3, 1: "another call"}
                await until(lambda: expected == first.texts_of(TRY) == second.texts_of(TRY))


async def test_databases_do_not_hear_each_other(clean_redis: RedisSettings) -> None:
    """Redis publishes to all databases."""
    other = clean_redis.model_copy(update={"db": 5})
    run_id = uuid4()
    async with (
        sender_on(clean_redis) as sender,
        board_on(clean_redis) as board,
        board_on(other) as deaf,
    ):
        with board.follow(run_id, lambda: None) as near, deaf.follow(run_id, lambda: None) as far:
            await until(lambda: deaf.is_up and board.is_up)
            await say(open_try(sender, run_id), "psst")
            await until(lambda: near.texts_of(TRY) == {0: "psst"})
            await asyncio.sleep(0.1)

            assert {} == far.texts_of(TRY)


async def test_texts_expire(clean_redis: RedisSettings) -> None:
    """Ten minutes after the last piece, ten seconds after the try's end; no key stays for ever."""
    run_id = uuid4()
    channel = channel_of(clean_redis.db, run_id)
    with redis.Redis.from_url(clean_redis.broker_url) as client:
        async with sender_on(clean_redis) as sender:
            tried = open_try(sender, run_id)
            await say(tried, "a")
            await tried.flush()
            open_s = {key.decode(): client.ttl(key) for key in client.keys("penstock*texts*")}
            tried.close()
            await asyncio.sleep(0.2)
            ended_s = client.ttl(f"{channel}.1.1.0.{STEP}")

    assert {channel, f"{channel}.1.1.0.{STEP}"} == set(open_s)
    assert all(KEPT_FOR_S - 5 < ttl <= KEPT_FOR_S for ttl in open_s.values())
    assert 0 < ended_s <= KEPT_AFTER_END_S


async def test_a_text_is_bounded(clean_redis: RedisSettings) -> None:
    """What is beyond the bound is not shown; what is within it is whole."""
    run_id = uuid4()
    async with sender_on(clean_redis) as sender, board_on(clean_redis) as board:
        with board.follow(run_id, lambda: None) as texts:
            tried = open_try(sender, run_id)
            take = tried.new_call()
            for _ in range(5):
                await take("🌊" * (MAX_CHARACTERS // 4))
            await until(lambda: len(texts.texts_of(TRY).get(0, "")) == MAX_CHARACTERS)
            await tried.flush()
            with (
                board.follow(run_id, lambda: None),
                redis.Redis.from_url(clean_redis.broker_url) as client,
            ):
                stored = client.get(f"{channel_of(0, run_id)}.1.1.0.{STEP}")

    assert len(stored) == 4 * MAX_CHARACTERS


async def test_what_strangers_leave_and_publish_harms_nobody(clean_redis: RedisSettings) -> None:
    """Keys of another type, garbage in the list and on the channel."""
    run_id = uuid4()
    channel = channel_of(clean_redis.db, run_id)
    with redis.Redis.from_url(clean_redis.broker_url) as client:
        client.set(channel, "no list")
        client.sadd(f"{channel}.1.1.0.{STEP}", "no text")
        async with sender_on(clean_redis) as sender, board_on(clean_redis) as board:
            with board.follow(run_id, lambda: None) as texts:
                await until(texts.is_read.is_set)
                tried = open_try(sender, run_id)
                saying = asyncio.create_task(say(tried, "Dear Ada"))
                await until(lambda: bool(texts.texts_of(TRY)))
                for garbage in (b"", b"{}", b"\xff", b"[" * 1000, b"x" * 3_000_000):
                    client.publish(channel, garbage)
                    client.rpush(channel, garbage[:1000])
                await saying
                await until(lambda: texts.texts_of(TRY) == {0: "Dear Ada"})
                async with board_on(clean_redis) as late:
                    with late.follow(run_id, lambda: None) as found:
                        await until(lambda: found.texts_of(TRY) == {0: "Dear Ada"})


async def test_a_gap_heals(clean_redis: RedisSettings) -> None:
    """A piece that was lost on its way is read from the text so far, with the next one."""
    run_id = uuid4()
    async with sender_on(clean_redis) as sender, board_on(clean_redis) as board:
        with board.follow(run_id, lambda: None) as texts:
            tried = open_try(sender, run_id)
            await say(tried, "Dear Ada")
            await until(lambda: texts.texts_of(TRY) == {0: "Dear Ada"})
            # As if this process had missed all but the first four letters, and one more came.
            texts._tries[TRY][0] = "Dear"
            board.take(run_id, Piece(**{**TRY._asdict(), "call": 0, "offset": 8, "text": ""}))

            await until(lambda: texts.texts_of(TRY) == {0: "Dear Ada"})


@pytest.mark.parametrize("state", list(STATES))
async def test_text_is_whole_again_after_any_state_of_redis(
    fragile: FragileRedis, state: str
) -> None:
    """No piece of text waits for Redis meanwhile, and what was said then is there afterwards."""
    run_id = uuid4()
    text = "".join(random.Random(1).choices("abcdeé🌊", k=2000))  # noqa: S311 - only text
    loop = asyncio.get_running_loop()
    async with sender_on(fragile.settings) as sender, board_on(fragile.settings) as board:
        with board.follow(run_id, lambda: None) as texts:
            tried = open_try(sender, run_id)
            take = tried.new_call()
            longest_s = 0.0
            for number, letter in enumerate(text):
                if number == 500:
                    await asyncio.to_thread(STATES[state].hurt, fragile)
                if number == 1500:
                    await asyncio.to_thread(STATES[state].heal, fragile)
                began_s = loop.time()
                await take(letter)
                longest_s = max(longest_s, loop.time() - began_s)
                await asyncio.sleep(0.002)
            began_s = loop.time()
            await tried.flush()
            flushed_s = loop.time() - began_s

            await until(lambda: texts.texts_of(TRY) == {0: text}, within_s=15)
            async with board_on(fragile.settings) as late:
                with late.follow(run_id, lambda: None) as found:
                    await until(lambda: found.texts_of(TRY) == {0: text}, within_s=5)

    assert longest_s < 0.05
    assert flushed_s < 0.3


@pytest.mark.parametrize("state", ["dead", "frozen", "full"])
async def test_no_step_waits_while_redis_is_unwell(fragile: FragileRedis, state: str) -> None:
    """Nor does one whose worker begins then; the end of the first may cost a tenth of a second."""
    STATES[state].hurt(fragile)
    loop = asyncio.get_running_loop()
    took_s = []
    async with sender_on(fragile.settings) as sender:
        for _ in range(10):
            began_s = loop.time()
            tried = open_try(sender, uuid4())
            await tried.new_call()("text")
            await tried.flush()
            tried.close()
            took_s.append(loop.time() - began_s)
            await asyncio.sleep(0.1)
        began_s = loop.time()
    closed_s = loop.time() - began_s
    STATES[state].heal(fragile)

    assert max(took_s) < 0.2
    assert sum(took_s) < 1.2
    assert closed_s < 1


def hurt(fragile: FragileRedis, deed: str) -> None:
    """Let something happen to Redis; only one that is not frozen takes orders."""
    fragile.thaw()
    if deed == "flush":
        fragile.flush()
    elif deed == "freeze":
        fragile.freeze()


async def speak(take: OnText) -> str:
    """Say something for three seconds; all of it."""
    text = ""
    for number in range(150):
        await take(f"{number} ")
        text += f"{number} "
        await asyncio.sleep(0.02)
    return text


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_many_calls_and_watchers_come_through_a_restless_redis(
    fragile: FragileRedis, seed: int
) -> None:
    """Whenever watchers come, and whatever is forgotten: in the end each has each text."""
    dice = random.Random(seed)  # noqa: S311 - only to be different, and the same again
    runs = [uuid4() for _ in range(5)]
    found: list[RunTexts] = []

    async with (
        sender_on(fragile.settings) as sender,
        board_on(fragile.settings) as board,
        AsyncExitStack() as watchers,
    ):
        takes = [
            tried.new_call() for tried in (open_try(sender, id_) for id_ in runs) for _ in "1234"
        ]
        speaking = asyncio.gather(*map(speak, takes))
        while not speaking.done():
            await asyncio.to_thread(hurt, fragile, dice.choice(["flush", "freeze", "thaw"]))
            await asyncio.sleep(0.3)
            following = board.follow(dice.choice(runs), lambda: None)
            found.append(watchers.enter_context(following))
        await asyncio.to_thread(hurt, fragile, "thaw")
        await asyncio.sleep(1)
        await asyncio.gather(*(take("end") for take in takes))  # heals what was forgotten since
        expected = {call: f"{text}end" for call, text in enumerate(speaking.result()[:4])}

        await until(lambda: all(known.texts_of(TRY) == expected for known in found), within_s=8)
