"""Live texts between live events, for watchers quick and slow."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

import pytest

from services.api.background import in_background
from services.api.event_hub import EventHub
from services.api.watching import Delta
from services.core.live_text.wire import Piece
from services.core.runs.models import Event
from services.core.runs.states import EventType
from tests.fakes.run_store import InMemoryRunStore
from tests.fakes.waiting import until
from tests.unit.api.conftest import SilentTexts
from tests.unit.api.test_event_hub import accept, until_watched

STEP = "write_letter"
LONG_S = 20.0
"""Seconds between polls that no test waits for."""
LETTER = "Dear Ada, how are you?"


@pytest.fixture
async def hub(store: InMemoryRunStore, texts: SilentTexts) -> AsyncIterator[EventHub]:
    """A hub that polls at once, and then hardly ever."""
    hub = EventHub(store, texts.board, poll_s=LONG_S)  # type: ignore[arg-type]  # it has what the hub uses
    async with in_background(("polling", hub.poll)):
        yield hub
    hub.close()


def begin(store: InMemoryRunStore, run_id: UUID, attempt: int = 1) -> None:
    """Let the record have a try of the step."""
    store.append_event(run_id, EventType.STEP_STARTED, step=STEP, attempt=attempt)


def say(texts: SilentTexts, run_id: UUID, text: str, *, attempt: int = 1) -> None:
    """Let the text of a call be so far."""
    piece = Piece(fence=attempt, attempt=attempt, call=0, step=STEP, offset=0, text=text)
    texts.board.take(run_id, piece)


def told(items: list[Event | Delta]) -> list[str]:
    """Types of events, and pieces of text."""
    return [item.text if isinstance(item, Delta) else item.type.value for item in items]


async def test_the_first_word_of_a_try_has_its_beginning_fetched_at_once(
    hub: EventHub, store: InMemoryRunStore, texts: SilentTexts
) -> None:
    """Nobody waits for the next poll, and no text comes before its step has begun."""
    run_id = await accept(store)
    async with asyncio.timeout(5), aclosing(hub.watch(run_id, after=0)) as watching:
        items = [await anext(watching)]
        waiting = asyncio.create_task(anext(watching))
        await until_watched(hub)
        begin(store, run_id)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        say(texts, run_id, "Dear")
        items += [await waiting, await anext(watching)]
        say(texts, run_id, "Dear Ada")
        items.append(await anext(watching))

    assert ["run.queued", "step.started", "Dear", " Ada"] == told(items)


async def test_who_comes_back_gets_the_text_so_far_and_goes_on(
    hub: EventHub, store: InMemoryRunStore, texts: SilentTexts
) -> None:
    """The step began before the last event that the client has."""
    run_id = await accept(store)
    begin(store, run_id)
    with texts.board.follow(run_id, lambda: None):  # as another watcher of the process does
        say(texts, run_id, "Dear")
        async with asyncio.timeout(5), aclosing(hub.watch(run_id, after=2)) as watching:
            first = await anext(watching)
            say(texts, run_id, "Dear Ada")
            second = await anext(watching)

    assert [Delta(STEP, 1, 0, 0, "Dear"), Delta(STEP, 1, 0, 4, " Ada")] == [first, second]


async def test_who_comes_back_after_the_end_of_a_try_gets_nothing_of_it(
    hub: EventHub, store: InMemoryRunStore, texts: SilentTexts
) -> None:
    """Though its text is there for some seconds more."""
    run_id = await accept(store)
    begin(store, run_id)
    store.append_event(run_id, EventType.STEP_RETRYING, step=STEP, attempt=1)
    begin(store, run_id, attempt=2)
    with texts.board.follow(run_id, lambda: None):
        say(texts, run_id, "too late")
        say(texts, run_id, "Dear", attempt=2)
        store.append_event(run_id, EventType.RUN_SUCCEEDED)
        items = [item async for item in hub.watch(run_id, after=3)]

    assert ["step.started", "Dear", "run.succeeded"] == told(items)


async def test_a_slow_watcher_gets_larger_pieces_and_all_of_them(
    hub: EventHub, store: InMemoryRunStore, texts: SilentTexts
) -> None:
    """What it has not taken waits as one text, and not as a queue."""
    run_id = await accept(store)
    begin(store, run_id)
    async with asyncio.timeout(5), aclosing(hub.watch(run_id, after=0)) as slow:
        items = [await anext(slow), await anext(slow)]
        waiting = asyncio.create_task(anext(slow))
        await until(lambda: bool(texts.board.runs))
        for end in range(1, len(LETTER) + 1):
            say(texts, run_id, LETTER[:end])
            if end % 10 == 0:
                await asyncio.sleep(0)
        items.append(await waiting)
        items.append(await anext(slow))

    assert ["run.queued", "step.started", LETTER[:10], LETTER[10:]] == told(items)


async def test_a_watcher_that_leaves_takes_its_texts_along(
    hub: EventHub, store: InMemoryRunStore, texts: SilentTexts
) -> None:
    """Nothing is kept for runs that nobody watches."""
    run_id = await accept(store)
    async with aclosing(hub.watch(run_id, after=0)) as watching:
        await anext(watching)
        was_followed = run_id in texts.board.runs

    assert was_followed
    assert {} == texts.board.runs
