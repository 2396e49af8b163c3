"""Sending an answer as Claude's API does: as one JSON body or as server-sent events."""

import asyncio
import json
import re
from collections.abc import Coroutine, Iterator
from typing import Any

from starlette.types import Receive, Send

from services.core.clock import utc_now
from services.simulator.answer import SimulatedAnswer
from services.simulator.errors import ApiError

Event = tuple[str, dict[str, Any]]
JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"
BETWEEN_WORDS = re.compile(r"(?<=[a-z]) (?=[a-z])")


class ClientGoneError(Exception):
    """The client closed the connection before the end of the answer."""


async def unless_gone(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do the work, but stop as soon as the client goes.

    Args:
        work: What sends the answer.
        receive: The request's ASGI channel, its body already read.

    Raises:
        ClientGoneError: The client closed the connection.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def send_head(send: Send, *, status: int, media_type: str, headers: dict[str, str]) -> None:
    """Send status and headers."""
    lines = {"content-type": media_type, **headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_body(send: Send, body: bytes, *, more: bool = False) -> None:
    """Send a part of the body, the last one unless there is more."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


def encode_event(event: Event) -> bytes:
    """One server-sent event."""
    name, data = event
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def opening_events(answer: SimulatedAnswer) -> Iterator[Event]:
    """What comes before the text."""
    message = answer.message()
    message |= {"content": [], "stop_reason": None, "stop_sequence": None}
    message["usage"] = answer.whole_usage | {"output_tokens": 1}
    yield "message_start", {"type": "message_start", "message": message}
    block = {"type": "text", "text": ""}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": block}
    yield "ping", {"type": "ping"}


def text_event(text: str) -> Event:
    """One piece of the text."""
    delta = {"type": "text_delta", "text": text}
    return "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}


def closing_events(answer: SimulatedAnswer) -> Iterator[Event]:
    """What comes after the text."""
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    delta = {
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
    }
    yield "message_delta", {"type": "message_delta", "delta": delta, "usage": answer.usage}
    yield "message_stop", {"type": "message_stop"}


def stamp_piece(piece: str, *, is_structured: bool) -> str:
    """The piece with the moment at which it leaves: `[1763920000.123456]`.

    In JSON that moment stands between two words, so within a string; a piece without a place for
    it stays as it is.
    """
    stamp = f"[{utc_now().timestamp():.6f}]"
    if not is_structured:
        return f"{stamp} {piece}"
    return BETWEEN_WORDS.sub(f" {stamp} ", piece, count=1)


def error_event(error: ApiError, request_id: str) -> Event:
    """An error after the head was sent with status 200."""
    return "error", error.body(request_id)


def split_text(text: str, pieces: int) -> list[str]:
    """The text in at most that many pieces of about equal length; none of an empty text."""
    length = max(1, -(-len(text) // pieces))
    return [text[start : start + length] for start in range(0, len(text), length)]


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
