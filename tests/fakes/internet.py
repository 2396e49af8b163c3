"""An internet in memory: host names, addresses, and what answers there. No socket is opened."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import httpcore2

PUBLIC_ADDRESS = "93.184.216.34"
Answer = bytes | Exception | Callable[[], AsyncIterator[bytes]]


def http_answer(
    body: bytes = b"", *, status: int = 200, content_type: str | None = "text/plain", **headers: str
) -> bytes:
    """A whole HTTP/1.1 answer; keyword `content_encoding` becomes header content-encoding."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    if content_type is not None:
        lines.append(f"content-type: {content_type}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class FakeResolver:
    """Knows the test's names; numbers in any spelling are read as the machine reads them."""

    def __init__(self, names: dict[str, Sequence[str] | Exception | list[Sequence[str]]]) -> None:
        """Take addresses per name; a list of lists is used up one look-up at a time."""
        self._names = names
        self.lookups: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name."""
        self.lookups.append(host)
        known = self._names.get(host)
        if known is None:
            # AI_NUMERICHOST: no name server is ever asked.
            found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
            return [str(entry[4][0]) for entry in found]
        if isinstance(known, Exception):
            raise known
        first = known[0]
        if isinstance(first, str):
            return [str(address) for address in known]
        return known.pop(0) if isinstance(known, list) else first


class FakeSockets(httpcore2.AsyncNetworkBackend):
    """Answers per (address, port); connecting elsewhere fails, and every try is noted."""

    def __init__(self, answers: dict[tuple[str, int], Answer | list[Answer]]) -> None:
        """Take what answers; of a list each connection gets the next answer."""
        self._answers = answers
        self.connects: list[tuple[str, int]] = []
        self.sent: list[bytes] = []
        self.tls_names: list[str | None] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Note the try; give the answer's stream."""
        self.connects.append((host, port))
        answer = self._answers.get((host, port))
        if isinstance(answer, list):
            answer = answer.pop(0)
        if answer is None:
            raise httpcore2.ConnectError("connection refused")
        if isinstance(answer, Exception):
            raise answer
        return _Stream(self, answer)


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(
        self, sockets: FakeSockets, answer: bytes | Callable[[], AsyncIterator[bytes]]
    ) -> None:
        self._sockets = sockets
        self._pieces = _once(answer) if isinstance(answer, bytes) else answer()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore2's signature
        return await anext(self._pieces, b"")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore2's signature
        self._sockets.sent.append(buffer)

    async def aclose(self) -> None:
        pass

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
    ) -> httpcore2.AsyncNetworkStream:
        self._sockets.tls_names.append(server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        return None


async def _once(answer: bytes) -> AsyncIterator[bytes]:
    yield answer


def trickle(head: bytes, piece: bytes, *, pause_s: float) -> Callable[[], AsyncIterator[bytes]]:
    """An answer that never ends: the head, then piece after piece."""

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        while True:
            await asyncio.sleep(pause_s)
            yield piece

    return pieces
