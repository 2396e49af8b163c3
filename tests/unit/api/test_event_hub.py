"""Live events: nothing missed, nothing twice, nobody held up by anybody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from services.api import event_hub
from services.api.background import in_background
from services.api.event_hub import EventHub
from services.core.runs.models import Event, NewRun
from services.core.runs.states import EventType
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import SilentTexts

POLL_S = 0.005


@pytest.fixture
async def hub(store: InMemoryRunStore, texts: SilentTexts) -> AsyncIterator[EventHub]:
    """A hub that polls quickly."""
    hub = EventHub(store, texts.board, poll_s=POLL_S)  # type: ignore[arg-type]  # it has the methods that the hub uses
    async with in_background(("polling", hub.poll)):
        yield hub
    hub.close()


async def accept(store: InMemoryRunStore) -> UUID:
    """A run with its first event."""
    run, _ = await store.accept_run(
        NewRun(key_id=uuid7(), pipeline="letter", input={}, step_names=("write_letter",))
    )
    return run.id


async def read_all(hub: EventHub, run_id: UUID, *, after: int = 0) -> list[Event]:
    """Every event to the final one."""
    async with asyncio.timeout(5):
        return [event async for event in hub.watch(run_id, after=after)]


async def until_watched(hub: EventHub, runs: int = 1) -> None:
    """Wait until so many runs are watched."""
    async with asyncio.timeout(5):
        while hub.watched_runs != runs:
            await asyncio.sleep(POLL_S)


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
async def test_watching_from_any_event_on_gives_the_rest(
    hub: EventHub, store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Whatever the position and the size of a page."""
    monkeypatch.setattr(event_hub, "PAGE", page)
    run_id = await accept(store)
    for _ in range(5):
        store.append_event(run_id)
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    whole = store.events[run_id]

    for after in range(len(whole)):
        assert whole[after:] == await read_all(hub, run_id, after=after)


async def test_events_that_come_later_are_seen_by_all_watchers(
    hub: EventHub, store: InMemoryRunStore
) -> None:
    """Also by those that came in the middle, whatever they had seen before."""
    run_id = await accept(store)
    watchers = []
    for number in range(20):
        watchers.append(asyncio.create_task(read_all(hub, run_id, after=number // 2)))
        store.append_event(run_id)
        await asyncio.sleep(POLL_S * (number % 3))
    store.append_event(run_id, EventType.RUN_FAILED)

    seen = await asyncio.gather(*watchers)

    for number, events in enumerate(seen):
        assert store.events[run_id][number // 2 :] == events


async def test_all_watched_runs_share_one_statement_per_poll(
    hub: EventHub, store: InMemoryRunStore
) -> None:
    """A thousand watchers cost the record no more statements than one."""
    runs = [await accept(store) for _ in range(50)]
    watchers = [asyncio.create_task(read_all(hub, run_id)) for run_id in runs]
    await until_watched(hub, 50)
    store.statements.clear()

    await asyncio.sleep(POLL_S * 10)

    assert 1 <= store.statements.count("list_events") <= 15
    for run_id in runs:
        store.append_event(run_id, EventType.RUN_SUCCEEDED)
    assert {2} == {len(events) for events in await asyncio.gather(*watchers)}


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
async def test_a_stream_goes_on_past_a_final_event_that_is_followed(
    hub: EventHub, store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """A replayed run has ended in the middle; whoever comes from there gets what followed."""
    monkeypatch.setattr(event_hub, "PAGE", page)
    run_id = await accept(store)
    for kind in (EventType.RUN_FAILED, EventType.RUN_QUEUED, EventType.RUN_CANCELLED):
        store.append_event(run_id, kind)
    store.append_event(run_id, EventType.RUN_QUEUED)
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    whole = store.events[run_id]

    for after in range(len(whole)):
        assert whole[after:] == await read_all(hub, run_id, after=after)


async def test_a_stream_that_meets_the_end_and_the_replay_together_goes_on(
    hub: EventHub, store: InMemoryRunStore
) -> None:
    """Both came between two polls."""
    run_id = await accept(store)
    watcher = asyncio.create_task(read_all(hub, run_id))
    await until_watched(hub)

    store.append_event(run_id, EventType.RUN_FAILED)
    store.append_event(run_id, EventType.RUN_QUEUED, replay=1)
    await asyncio.sleep(POLL_S * 10)
    assert not watcher.done()
    store.append_event(run_id, EventType.RUN_SUCCEEDED)

    assert store.events[run_id] == await watcher


async def test_a_stream_ends_with_the_last_final_event(
    hub: EventHub, store: InMemoryRunStore
) -> None:
    """One more look at the record, and no waiting for a replay that may never come."""
    run_id = await accept(store)
    watcher = asyncio.create_task(read_all(hub, run_id))
    await until_watched(hub)
    store.append_event(run_id, EventType.RUN_FAILED)

    assert len(await watcher) == 2
    store.append_event(run_id, EventType.RUN_QUEUED, replay=1)
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    assert store.events[run_id][2:] == await read_all(hub, run_id, after=2)


async def test_nothing_is_polled_while_nobody_watches(
    hub: EventHub, store: InMemoryRunStore
) -> None:
    """An idle process leaves the record alone, before and after."""
    run_id = await accept(store)
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    await read_all(hub, run_id)
    store.statements.clear()

    await asyncio.sleep(POLL_S * 10)

    assert store.statements == []


async def test_a_watcher_that_leaves_is_forgotten(hub: EventHub, store: InMemoryRunStore) -> None:
    """A cancelled request, as after a disconnect, leaves nothing behind."""
    run_id = await accept(store)
    watcher = asyncio.create_task(read_all(hub, run_id))
    await until_watched(hub)

    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)

    assert hub.watched_runs == 0


async def test_a_slow_watcher_holds_up_nobody_and_misses_nothing(
    hub: EventHub, store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cannot take is dropped and read again from the record when it can."""
    monkeypatch.setattr(event_hub, "MAX_BUFFERED", 3)
    run_id = await accept(store)
    quick = asyncio.create_task(read_all(hub, run_id))
    async with aclosing(hub.watch(run_id, after=0)) as slow:
        seen = [await anext(slow)]
        waiting = asyncio.create_task(anext(slow))
        await until_watched(hub)
        for _ in range(50):
            store.append_event(run_id)
            await asyncio.sleep(POLL_S / 5)
        store.append_event(run_id, EventType.RUN_SUCCEEDED)

        assert store.events[run_id] == await quick
        seen.append(await waiting)
        seen += [event async for event in slow]

    assert store.events[run_id] == seen


async def test_watchers_outlive_an_outage_of_the_record(
    hub: EventHub, store: InMemoryRunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait and go on, instead of coming back to a 503."""
    monkeypatch.setattr("services.api.background.PAUSE_AFTER_ERROR_S", POLL_S)
    monkeypatch.setattr(event_hub, "OUTAGE_PAUSE_S", POLL_S)
    run_id = await accept(store)
    early = asyncio.create_task(read_all(hub, run_id))
    await until_watched(hub)
    store.is_away = True
    late = asyncio.create_task(read_all(hub, run_id))
    await asyncio.sleep(POLL_S * 10)
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    store.is_away = False

    assert store.events[run_id] == await early == await late


async def test_closing_ends_every_stream_at_once(hub: EventHub, store: InMemoryRunStore) -> None:
    """A stopping process does not wait for runs to end."""
    run_id = await accept(store)
    watchers = [asyncio.create_task(read_all(hub, run_id)) for _ in range(3)]
    await until_watched(hub)

    hub.close()

    assert [1, 1, 1] == [len(events) for events in await asyncio.gather(*watchers)]
    assert await read_all(hub, run_id) == []
