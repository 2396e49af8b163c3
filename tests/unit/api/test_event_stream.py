"""What goes over the wire while a stream is open, and how it ends."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi.sse import ServerSentEvent
from starlette.types import Message

from services.api import event_stream
from services.api.event_stream import EventStream

FIRST = b"event: a\ndata: 1\nid: 1\n\n"
SECOND = b"event: a\ndata: 2\nid: 2\n\n"


class Client:
    """What a server has of a client: it notices its leaving, and after an answer says that there is no more."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.start: Message = {}
        self.is_done = asyncio.Event()
        self.is_complete = False

    async def receive(self) -> Message:
        """The request, whose body is long read; then its end."""
        await self.is_done.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the answer."""
        assert not self.is_complete
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.parts.append(message["body"])
        if not message["more_body"]:
            self.is_complete = True
            self.is_done.set()

    async def open(self, stream: EventStream) -> None:
        """Read a stream to its end."""
        await stream({"type": "http"}, self.receive, self.send)


def an_event(number: int) -> ServerSentEvent:
    """An event with that id."""
    return ServerSentEvent(id=str(number), event="a", raw_data=str(number))


async def test_a_stream_ends_with_its_last_event() -> None:
    """All that came, and a head that keeps caches and proxies out."""

    async def events() -> AsyncGenerator[ServerSentEvent]:
        yield an_event(1)
        yield an_event(2)

    client = Client()
    await client.open(EventStream(events()))

    assert [FIRST, SECOND, b""] == client.parts
    assert client.start["status"] == 200
    assert dict(client.start["headers"]) == {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
    }


async def test_a_quiet_stream_is_pinged_until_its_client_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then whoever makes the events is told at once."""
    monkeypatch.setattr(event_stream, "PING_S", 0.01)
    is_closed = asyncio.Event()

    async def events() -> AsyncGenerator[ServerSentEvent]:
        try:
            yield an_event(1)
            await asyncio.Event().wait()
        finally:
            is_closed.set()

    client = Client()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(client.open(EventStream(events())))
        while len(client.parts) < 3:
            await asyncio.sleep(0.01)
        client.is_done.set()

    assert is_closed.is_set()
    assert [FIRST, b": ping\n\n", b": ping\n\n"] == client.parts[:3]
    assert not client.is_complete


async def test_a_source_that_fails_cuts_the_stream() -> None:
    """The client sees that it is not complete, and comes back."""

    async def events() -> AsyncGenerator[ServerSentEvent]:
        yield an_event(1)
        raise ValueError

    client = Client()
    with pytest.raises(ExceptionGroup):
        await client.open(EventStream(events()))

    assert [FIRST] == client.parts
    assert not client.is_complete
