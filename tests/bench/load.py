"""Posts the same body again and again over some connections, in a process of its own that is not the bottleneck.

`python -m tests.bench.load URL KEY --connections N --seconds S < body` prints {"posts", "seconds", "p50_ms", …}.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import cast
from urllib.parse import urlsplit

import uvloop

WARM_UP_S = 1.0
"""Posts before it do not count: connections and caches are filled then."""


@dataclass
class Tally:
    """What came back."""

    times_s: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    is_counting: bool = False
    is_over: bool = False

    def note(self, status: str, seconds: float) -> None:
        """One answer."""
        if self.is_counting:
            self.times_s.append(seconds)
            self.statuses[status] = self.statuses.get(status, 0) + 1


class Poster(asyncio.Protocol):
    """Sends a request as soon as the one before is answered. Reads no more of an answer than it must."""

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request = request
        self._tally = tally
        self._buffer = b""
        self._sent_at_s = 0.0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._tally.note(self._buffer[9:12].decode(), time.perf_counter() - self._sent_at_s)
        self._buffer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or the end of the measurement."""
        if not self.ended.done():
            self.ended.set_result(exc)

    def _send(self) -> None:
        if self._tally.is_over:
            self._transport.close()
            return
        self._sent_at_s = time.perf_counter()
        self._transport.write(self._request)


async def post_for(request: bytes, url: str, *, connections: int, seconds: float) -> Tally:
    """Keep that many posts under way for so long."""
    loop, tally = asyncio.get_running_loop(), Tally()
    server = urlsplit(url)
    posters = [
        (
            await loop.create_connection(
                lambda: Poster(request, tally), server.hostname, server.port
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(WARM_UP_S)
    tally.is_counting = True
    await asyncio.sleep(seconds)
    tally.is_counting, tally.is_over = False, True
    await asyncio.wait([poster.ended for poster in posters], timeout=10)
    return tally


def as_request(url: str, key: str, body: bytes) -> bytes:
    """The request, once and for all."""
    server = urlsplit(url)
    head = (
        f"POST {server.path} HTTP/1.1\r\nHost: {server.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    request = as_request(args.url, args.key, sys.stdin.buffer.read())
    tally = uvloop.run(
        post_for(request, args.url, connections=args.connections, seconds=args.seconds)
    )
    percent = [1000 * value for value in quantiles(tally.times_s, n=100)]
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "posts": len(tally.times_s),
        "per_s": len(tally.times_s) / args.seconds,
        "p50_ms": percent[49],
        "p99_ms": percent[98],
        "client_cpu_s": used.ru_utime + used.ru_stime,
        "statuses": tally.statuses,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
