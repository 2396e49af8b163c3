"""A Messages API inside the test: what it is asked, and answers as they go over the wire."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from config.anthropic import AnthropicSettings
from services.core.claude.anthropic_claude import AnthropicClaude

Event = dict[str, Any]
ASKED_MODEL = "claude-sonnet-5-5"


def sse(*events: Event) -> bytes:
    """Server-sent events."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def answer(*pieces: str, **said: Any) -> bytes:
    """A whole answer."""
    return sse(*message_events(*pieces, **said))


def message_events(
    *pieces: str,
    model: str = ASKED_MODEL,
    stop_reason: str = "end_turn",
    stop_details: dict[str, Any] | None = None,
    **usage: int,
) -> list[Event]:
    """The events of a whole answer."""
    start_usage = {"input_tokens": 100, "output_tokens": 1, **usage}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": start_usage,
    }
    delta = {"stop_reason": stop_reason, "stop_sequence": None, "stop_details": stop_details}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": piece},
            }
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ]


@dataclass
class MessagesApi:
    """Gives its answers in turn and the last one again and again; keeps what it was asked."""

    body: bytes = field(default_factory=lambda: sse(*message_events('{"word": "yes"}')))
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "text/event-stream"
    before: list[bytes] = field(default_factory=list)
    """Bodies to answer with first."""
    requests: list[httpx2.Request] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request."""
        self.requests.append(request)
        headers = {"content-type": self.media_type, **self.headers}
        body = self.before.pop(0) if self.before else self.body
        return httpx2.Response(self.status, headers=headers, content=body)

    @property
    def asked(self) -> dict[str, Any]:
        """The last request's body."""
        return dict(json.loads(self.requests[-1].content))

    def error(self, error_type: str | None, *, status: int, **details: str) -> None:
        """Answer with an error from now on."""
        error = {"type": error_type, "message": "no", "details": details or None}
        self.status, self.media_type = status, "application/json"
        body = {"type": "error", "error": error, "request_id": "req_1"}
        self.body = json.dumps(body).encode() if error_type else b"<html>"


def claude_for(api: Callable[[httpx2.Request], Any], **settings: Any) -> AnthropicClaude:
    """The client, asking the API inside the test."""
    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(api))
    defaults = {"api_key": "sk-ant-real", "simulator_url": None}
    return AnthropicClaude(AnthropicSettings(**(defaults | settings)), http_client=http_client)
