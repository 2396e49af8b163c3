"""One turn of an answer, put together from the server-sent events that it streams in as.

Not by the SDK's `messages.stream`: it builds a typed event, and the message so far, for each piece, which costs more
than all else of a call. Here the pieces stay JSON, and the message is built once, at the end. ADR 6.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import anthropic
import httpx2
from anthropic.types import Message
from pydantic import ValidationError
from pydantic_core import from_json

from services.core.rate_limits import SeenLimits

SIMULATED_HEADER = "x-penstock-simulated"
"""On every answer of the simulator, so that an answer itself tells where it is from."""
CUMULATIVE = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "server_tool_use",
    "output_tokens_details",
)
"""What the end of an answer says once more of its usage, as far as it applies; it counts from the beginning."""
ENDING = ("stop_reason", "stop_sequence", "stop_details")


class EventReader:
    """Reads server-sent events out of bytes, in whatever portions these come."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = b""
        self._data: list[bytes] = []

    def read(self, portion: bytes) -> Iterator[tuple[str, bytes]]:
        """The events that are whole by now: name and data."""
        *lines, self._rest = (self._rest + portion).split(b"\n")
        for line in (line.rstrip(b"\r") for line in lines):
            if line:
                field, _, value = line.partition(b":")
                if field == b"data":
                    self._data.append(value.removeprefix(b" "))
                elif field == b"event":
                    self._name = value.removeprefix(b" ")
                continue
            if self._name:
                yield self._name.decode(), b"\n".join(self._data)
            self._name, self._data = b"", []


class Arrival:
    """What has arrived of one turn."""

    def __init__(self) -> None:
        self.is_complete = False
        self.is_simulated = False
        self.seen_limits: SeenLimits | None = None
        self._events = EventReader()
        self._message: dict[str, Any] | None = None
        self._texts: list[list[str]] = []
        """The pieces of each block."""

    @cached_property
    def message(self) -> Message | None:
        """The turn as a message, whole or not; None if it has not begun. For when nothing more comes."""
        if self._message is None:
            return None
        for block, texts in zip(self._message["content"], self._texts, strict=True):
            if texts:
                block[block["type"]] = "".join([block.get(block["type"]) or "", *texts])
        return _message(self._message)

    def begin(self, response: httpx2.Response) -> None:
        """Take what stands at the head of the answer."""
        self.is_simulated = SIMULATED_HEADER in response.headers
        self.seen_limits = SeenLimits.from_headers(response.headers)

    def take(self, portion: bytes, response: httpx2.Response) -> Iterator[str]:
        """Take what came of the answer's body; its pieces of text.

        Raises:
            APIStatusError: Claude says that it failed in mid-answer.
            ValueError, LookupError, TypeError: This is not an answer of Claude.
        """
        for name, data in self._events.read(portion):
            if name == "error":
                raise _status_error(data, response)
            if data and name != "ping" and (text := self._note(from_json(data))):
                yield text

    def _note(self, event: dict[str, Any]) -> str:
        """Note an event; the piece of text that it brings."""
        kind = event["type"]
        if kind == "message_start":
            self._message = event["message"]
            self._texts = [[] for _ in event["message"]["content"]]
        elif kind == "message_stop":
            self.is_complete = True
        elif self._message is not None:
            return self._note_part(self._message, kind, event)
        return ""

    def _note_part(self, message: dict[str, Any], kind: str, event: dict[str, Any]) -> str:
        """Add what an event says to the message."""
        if kind == "content_block_start":
            message["content"].append(event["content_block"])
            self._texts.append([])
        elif kind == "content_block_delta":
            return self._grow(message["content"], event["index"], event["delta"])
        elif kind == "message_delta":
            said = event["usage"]
            message |= {name: event["delta"].get(name) for name in ENDING}
            message["usage"] |= {
                name: said[name] for name in CUMULATIVE if said.get(name) is not None
            }
        return ""

    def _grow(self, blocks: list[dict[str, Any]], index: int, delta: dict[str, Any]) -> str:
        """Add a piece to a block. Those of tools and of citations are left out: we ask for neither."""
        block, kind = blocks[index], delta["type"]
        if kind == "text_delta" and block["type"] == "text":
            piece = str(delta["text"])
            self._texts[index].append(piece)
            return piece
        if kind == "thinking_delta" and block["type"] == "thinking":
            self._texts[index].append(str(delta["thinking"]))
        elif kind == "signature_delta" and block["type"] == "thinking":
            block["signature"] = delta["signature"]
        return ""


def _message(fields: dict[str, Any]) -> Message:
    """The SDK's message; leniently where it has something that this SDK does not know yet, as that costs more."""
    try:
        return Message.model_validate(fields)
    except ValidationError:
        return Message.construct(**fields)


def _status_error(data: bytes, response: httpx2.Response) -> anthropic.APIStatusError:
    """An error in mid-stream, as the SDK would raise it."""
    try:
        body: object = from_json(data)
    except ValueError:
        body = data.decode(errors="replace")
    return anthropic.APIStatusError(str(body), response=response, body=body)
