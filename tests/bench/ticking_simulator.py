"""The simulator, with a note of when each piece of text left it.

`GET /ticks` gives, by run and call, pairs of (characters sent so far, monotonic time), which all processes of a machine
share.
"""

import json
import time
from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from services.simulator.app import create_app as create_simulator

Ticks = dict[str, list[list[tuple[int, float]]]]


class Ticking:
    """Notes each piece of text on its way out."""

    def __init__(self, app: FastAPI, ticks: Ticks) -> None:
        """Wrap the simulator."""
        self._app = app
        self._ticks = ticks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, with notes."""
        body = b""
        sent = 0
        ticks: list[tuple[int, float]] = []

        async def receive_noting() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def send_noting(message: Message) -> None:
            nonlocal sent
            if text := _text_of(message.get("body", b"")):
                if not ticks:
                    self._ticks[json.loads(body)["metadata"]["user_id"]].append(ticks)
                sent += len(text)
                ticks.append((sent, time.monotonic()))
            await send(message)

        await self._app(scope, receive_noting, send_noting)


def create_app() -> FastAPI:
    """The simulator, and what it has noted."""
    ticks: Ticks = defaultdict(list)
    app = create_simulator()

    @app.get("/ticks")
    async def read_ticks() -> dict[str, Any]:
        return ticks

    app.add_middleware(Ticking, ticks=ticks)
    return app


def _text_of(body: bytes) -> str:
    """The text in a piece of an event stream."""
    lines = body.decode().split("\n") if b"text_delta" in body else ()
    events = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")
    ]
    return "".join(event["delta"].get("text", "") for event in events if "delta" in event)
