"""Posts runs over a few connections: as fast as they are accepted, or at a rate."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

CONTENT_LENGTH = b"content-length:"
TEXT = "x" * 150


@dataclass(slots=True)
class Posted:
    """What became of the POSTs."""

    took_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    """Of those that were accepted."""
    refused: dict[int, int] = field(default_factory=dict)
    """How many others, by status."""

    @property
    def per_s(self) -> float:
        """Accepted runs per second."""
        return len(self.latencies_s) / self.took_s


async def post_runs(
    url: str,
    key: str,
    *,
    pipeline: str,
    seconds: float,
    connections: int,
    per_s: float | None = None,
) -> Posted:
    """Post runs of a pipeline of the benchmarks for some seconds.

    Args:
        url: The API's address.
        key: An API key.
        pipeline: Its name.
        seconds: How long.
        connections: Open at once; each has one POST under way.
        per_s: Runs per second at most; without it, as fast as they are accepted.
    """
    posted = Posted()
    began_s = time.perf_counter()
    turns = _Turns(began_s, seconds=seconds, per_s=per_s)
    request = _request(url, key, pipeline)
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_post(url, request, turns, posted))
    posted.took_s = time.perf_counter() - began_s
    return posted


def _request(url: str, key: str, pipeline: str) -> bytes:
    body = json.dumps({"pipeline": pipeline, "input": {"number": 1, "text": TEXT}})
    return (
        f"POST /v1/runs HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class _Turns:
    """A turn for each POST, until the time is over."""

    def __init__(self, began_s: float, *, seconds: float, per_s: float | None) -> None:
        self._next_s = began_s
        self._ends_s = began_s + seconds
        self._pause_s = 1 / per_s if per_s else 0.0

    def __aiter__(self) -> AsyncIterator[None]:
        return self

    async def __anext__(self) -> None:
        now_s = time.perf_counter()
        turn_s = max(self._next_s, now_s) if self._pause_s == 0 else self._next_s
        if turn_s >= self._ends_s or now_s >= self._ends_s:
            raise StopAsyncIteration
        self._next_s = turn_s + self._pause_s
        if turn_s > now_s:
            await asyncio.sleep(turn_s - now_s)


async def _post(url: str, request: bytes, turns: _Turns, posted: Posted) -> None:
    """Post over one connection, one after the other."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async for _ in turns:
            began_s = time.perf_counter()
            writer.write(request)
            status = await _read_answer(reader)
            if status == HTTPStatus.ACCEPTED:
                posted.latencies_s.append(time.perf_counter() - began_s)
            else:
                posted.refused[status] = posted.refused.get(status, 0) + 1
    finally:
        writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> int:
    """The status of an answer, which is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(CONTENT_LENGTH))
    await reader.readexactly(length)
    return int(lines[0].split()[1])
