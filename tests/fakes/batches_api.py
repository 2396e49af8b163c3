"""Claude's Message Batches API over HTTP on loopback, as far as a test wants it to work."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from services.core.clock import utc_now
from tests.fakes.internet import http_answer

Json = dict[str, Any]
PATH = "/v1/messages/batches"
MODEL = "claude-sonnet-5-5"


def succeeded(text: str = '{"text": "fine"}', **usage: int) -> Json:
    """The result of a request that was answered."""
    tokens = {"input_tokens": 1000, "output_tokens": 100} | usage
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": tokens,
    }
    return {"type": "succeeded", "message": message}


def errored(error_type: str, message: str = "no") -> Json:
    """The result of a request that failed."""
    error = {"type": "error", "error": {"type": error_type, "message": message}}
    return {"type": "errored", "error": error}


@dataclass(slots=True)
class MadeBatch:
    """A message batch that the API has."""

    id: str
    requests: list[Json]
    created_at: datetime
    results: list[Json] | None = None
    is_cancelled: bool = False

    @property
    def custom_ids(self) -> list[str]:
        """The names of its requests, in order."""
        return [request["custom_id"] for request in self.requests]


@dataclass(slots=True)
class BatchesApi:
    """Its state, and what tests set."""

    host: str = ""
    made: list[MadeBatch] = field(default_factory=list)
    posts: int = 0
    refusal: tuple[int, str] | None = None
    """Status and error type with which POSTs are answered."""
    retry_after_s: float | None = None
    """What these answers ask to wait."""
    is_mute: bool = False
    """POSTs do their work, and nobody is told: the connection is cut."""
    is_gone: bool = False
    """Nothing is known of any batch."""
    on_post: Callable[[], None] = lambda: None
    """Called when a batch was made, before the answer."""
    cut_results_after: int | None = None
    """Lines of results after which a stream ends in good order, too early."""

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{self.host}"

    def end(
        self, batch: MadeBatch, outcome: Callable[[Json], Json] = lambda _: succeeded()
    ) -> None:
        """End a batch: a result for each request, the last one first."""
        batch.results = [
            {"custom_id": request["custom_id"], "result": outcome(request)}
            for request in reversed(batch.requests)
        ]

    def add_stranger(self, *, size: int) -> MadeBatch:
        """A batch that somebody else has made."""
        requests = [{"custom_id": f"theirs-{n}", "params": {}} for n in range(size)]
        return self._make(requests)

    def _make(self, requests: list[Json]) -> MadeBatch:
        batch = MadeBatch(f"msgbatch_{len(self.made) + 1}", requests, utc_now())
        self.made.append(batch)
        return batch

    def answer(self, method: str, path: str, body: bytes) -> bytes | None:
        """The bytes to answer with; None cuts the connection."""
        if method == "POST" and path == PATH:
            return self._create(body)
        if method == "GET" and path == PATH:
            page = [self._shown(batch) for batch in reversed(self.made)]
            first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
            return _json({"data": page, "has_more": False, "first_id": first, "last_id": last})
        batch_id, _, verb = path.removeprefix(f"{PATH}/").partition("/")
        batch = next((one for one in self.made if one.id == batch_id), None)
        if batch is None or self.is_gone:
            return _error(404, "not_found_error")
        if verb == "cancel":
            batch.is_cancelled = True
        if verb == "results":
            lines = (batch.results or [])[: self.cut_results_after]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            return http_answer(
                text.encode(), content_type="application/x-jsonl", connection="close"
            )
        return _json(self._shown(batch))

    def _create(self, body: bytes) -> bytes | None:
        self.posts += 1
        if self.refusal is not None:
            return _error(*self.refusal, retry_after_s=self.retry_after_s)
        batch = self._make(json.loads(body)["requests"])
        self.on_post()
        return None if self.is_mute else _json(self._shown(batch))

    def _shown(self, batch: MadeBatch) -> Json:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for line in batch.results or []:
            counts[line["result"].get("type", "errored")] += 1
        counts["processing"] = len(batch.requests) - sum(counts.values())
        status = "canceling" if batch.is_cancelled else "in_progress"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status if batch.results is None else "ended",
            "request_counts": counts,
            "created_at": batch.created_at.isoformat(),
            "expires_at": (batch.created_at + timedelta(days=1)).isoformat(),
            "ended_at": None if batch.results is None else utc_now().isoformat(),
            "results_url": None
            if batch.results is None
            else f"{self.url}{PATH}/{batch.id}/results",
        }


def _json(value: Json) -> bytes:
    return http_answer(
        json.dumps(value).encode(), content_type="application/json", connection="close"
    )


def _error(status: int, error_type: str, *, retry_after_s: float | None = None) -> bytes:
    wish = {} if retry_after_s is None else {"retry_after": str(retry_after_s)}
    body = {"type": "error", "error": {"type": error_type, "message": "as the test wants"}}
    return http_answer(
        json.dumps(body).encode(),
        status=status,
        content_type="application/json",
        connection="close",
        **wish,
    )


@asynccontextmanager
async def serve_batches() -> AsyncIterator[BatchesApi]:
    """Serve until the block ends."""
    api = BatchesApi()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            lengths = [line for line in head.lower().split("\r\n") if "content-length:" in line]
            body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
            found = api.answer(method, target.partition("?")[0], body)
            if found is not None:
                writer.write(found)
                await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    api.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield api
