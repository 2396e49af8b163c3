"""Events over HTTP: the wire format, resuming, and what may go wrong before the first byte."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.core.live_text.wire import Piece
from services.core.runs.models import Event
from services.core.runs.states import EventType
from tests.fakes.run_store import InMemoryRunStore
from tests.unit.api.conftest import SilentTexts, post_run
from tests.unit.api.test_errors import assert_problem, fields_of


def parse(text: str) -> list[tuple[int, str, Any]]:
    """(id, event, data) of each event, comments left out."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


@pytest.fixture
async def ended(client: httpx.AsyncClient, store: InMemoryRunStore) -> UUID:
    """A run that has ended, with some text on its way."""
    run_id = await post_run(client)
    store.append_event(run_id, EventType.RUN_STARTED)
    store.append_event(run_id, EventType.STEP_STARTED, step="write_letter", attempt=1)
    for text in ("Dear Zoë,\n\n", "data: not a field\r\n", "🌊\u2028\x85 end"):
        store.append_event(run_id, EventType.CLAUDE_DELTA, step="write_letter", text=text)
    store.append_event(run_id, EventType.STEP_SUCCEEDED, step="write_letter")
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    return run_id


async def test_events_are_sent_as_documented(
    client: httpx.AsyncClient, store: InMemoryRunStore, ended: UUID
) -> None:
    """`id` counts, `event` is the type, `data` is JSON, and text survives whatever it holds."""
    answer = await client.get(f"/v1/runs/{ended}/events")

    expected = [(event.seq, event.type.value, event.data) for event in store.events[ended]]
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert expected == parse(answer.text)


@pytest.mark.parametrize("how", ["header", "query", "both"])
async def test_a_client_resumes_after_any_event(
    client: httpx.AsyncClient, store: InMemoryRunStore, ended: UUID, how: str
) -> None:
    """Nothing is missed or repeated; the header wins, since EventSource repeats the query."""
    whole = [(event.seq, event.type.value, event.data) for event in store.events[ended]]
    for after in range(len(whole)):
        headers = {"Last-Event-ID": str(after)} if how != "query" else {}
        params = {"after": {"header": 0, "query": after, "both": 1}[how]}
        answer = await client.get(f"/v1/runs/{ended}/events", params=params, headers=headers)

        assert whole[after:] == parse(answer.text)


async def test_a_client_that_has_seen_all_is_told_to_stop(
    client: httpx.AsyncClient, store: InMemoryRunStore, ended: UUID
) -> None:
    """204 keeps an EventSource from reconnecting for ever."""
    last = len(store.events[ended])
    answer = await client.get(f"/v1/runs/{ended}/events", headers={"Last-Event-ID": str(last)})

    assert (answer.status_code, answer.text) == (204, "")


async def test_a_client_of_a_replayed_run_resumes_past_its_old_end(
    client: httpx.AsyncClient, store: InMemoryRunStore, ended: UUID
) -> None:
    """The final event of the attempt before is no reason to stop; that of the last one is."""
    old_end = len(store.events[ended])
    store.append_event(ended, EventType.RUN_QUEUED, replay=1)
    store.append_event(ended, EventType.RUN_FAILED, reason="permanent")
    url = f"/v1/runs/{ended}/events"

    resumed = await client.get(url, headers={"Last-Event-ID": str(old_end)})
    stopped = await client.get(url, headers={"Last-Event-ID": str(old_end + 2)})

    assert [kind for _, kind, _ in parse(resumed.text)] == ["run.queued", "run.failed"]
    assert (stopped.status_code, stopped.text) == (204, "")


async def test_a_run_that_ends_while_its_client_comes_back_does_not_hang(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """Between two reads of the record the run ended, and the client has that end from another process."""
    run_id = await post_run(client)
    list_events = store.list_events

    async def end_first(after: Mapping[UUID, int], *, limit: int = 1000) -> list[Event]:
        store.list_events = list_events  # type: ignore[method-assign]  # once is enough
        store.append_event(run_id, EventType.RUN_CANCELLED)
        return await list_events(after, limit=limit)

    store.list_events = end_first  # type: ignore[method-assign]  # just in time
    async with asyncio.timeout(2):
        answer = await client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "2"})

    assert answer.status_code == 204


async def test_text_has_no_id(
    client: httpx.AsyncClient, store: InMemoryRunStore, texts: SilentTexts
) -> None:
    """So a client comes back after the last event of the record; whatever the text holds, it is one event."""
    run_id = await post_run(client)
    store.append_event(run_id, EventType.STEP_STARTED, step="write_letter", attempt=1)
    store.append_event(run_id, EventType.STEP_SUCCEEDED, step="write_letter")
    store.append_event(run_id, EventType.RUN_SUCCEEDED)
    names = {"step": "write_letter", "attempt": 1, "call": 3, "offset": 0}
    text = "Zoë\n\ndata: x\r\nid: 9\r🌊\u2028\x85"
    with texts.board.follow(run_id, lambda: None):
        texts.board.take(run_id, Piece(fence=1, text=text, **names))
        answer = await client.get(f"/v1/runs/{run_id}/events")

    blocks = [block for block in answer.text.split("\n\n") if block]
    data = json.dumps(names | {"text": text})
    assert f"event: claude.delta\ndata: {data}" == blocks[2]
    assert ["id: 1", "id: 2", "id: 3", "id: 4"] == [
        block.splitlines()[-1] for number, block in enumerate(blocks) if number != 2
    ]


async def test_events_arrive_while_the_run_goes_on(
    client: httpx.AsyncClient, store: InMemoryRunStore
) -> None:
    """The stream ends with the final event, not before."""
    run_id = await post_run(client)
    reading = asyncio.create_task(client.get(f"/v1/runs/{run_id}/events"))
    await asyncio.sleep(0.05)
    store.append_event(run_id, EventType.CLAUDE_DELTA, text="a")
    await asyncio.sleep(0.15)
    assert not reading.done()
    store.append_event(run_id, EventType.RUN_CANCELLED)

    async with asyncio.timeout(2):
        answer = await reading

    kinds = [kind for _, kind, _ in parse(answer.text)]
    assert kinds == ["run.queued", "claude.delta", "run.cancelled"]


@pytest.mark.parametrize("value", ["x", "-1", "1.5", str(2**31), "9" * 30, "\u0661"])
async def test_a_malformed_position_is_422(client: httpx.AsyncClient, value: str) -> None:
    """Before a stream begins, problems are problems."""
    run_id = await post_run(client)
    headers = {"Last-Event-ID": value.encode()}

    problem = assert_problem(
        await client.get(f"/v1/runs/{run_id}/events", headers=headers), 422, "invalid-request"
    )

    assert fields_of(problem) == [("header", "/Last-Event-ID")]


@pytest.mark.parametrize("where", ["header", "query"])
async def test_a_position_that_the_run_never_had_is_422(
    client: httpx.AsyncClient, where: str
) -> None:
    """Else the stream would wait for events that never come."""
    run_id = await post_run(client)
    headers = {"Last-Event-ID": "2"} if where == "header" else {}
    params = {"after": "2"} if where == "query" else {}

    answer = await client.get(f"/v1/runs/{run_id}/events", headers=headers, params=params)

    problem = assert_problem(answer, 422, "invalid-request")
    assert [where] == [place for place, _ in fields_of(problem)]


async def test_a_client_that_disconnects_is_forgotten(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """Its request ends, and nobody polls for it."""
    run_id = await post_run(client)
    has_left = asyncio.Event()
    started = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            started.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/v1/runs/{run_id}/events",
        "raw_path": b"",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"authorization", client.headers["authorization"].encode())],
    }
    request = asyncio.create_task(app(scope, receive, send))
    async with asyncio.timeout(2):
        await started.wait()
        while app.state.event_hub.watched_runs == 0:
            await asyncio.sleep(0.01)
        has_left.set()
        await request

    assert app.state.event_hub.watched_runs == 0
