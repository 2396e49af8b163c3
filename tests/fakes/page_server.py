"""A real HTTP server on loopback that answers each path with the bytes that a test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpcore2

from tests.fakes.internet import http_answer


class PageServer:
    """Answers by path; anything else is 404. A None in place of an answer is silence."""

    def __init__(self, port: int) -> None:
        """Take the port that it listens on."""
        self.host = f"127.0.0.1:{port}"
        self.answers: dict[str, bytes | None] = {}
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://{self.host}{path}"


@asynccontextmanager
async def serve_pages() -> AsyncIterator[PageServer]:
    """Serve until the block ends."""
    pages: PageServer

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = request.split()[1]
            pages.requests.append(path)
            found = pages.answers.get(path.partition("?")[0], http_answer(status=404))
            if found is not None:
                writer.write(found)
                await writer.drain()
            else:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pages = PageServer(server.sockets[0].getsockname()[1])
    async with server:
        yield pages


class LoopbackOnly(httpcore2.AnyIOBackend):
    """Real sockets, to loopback: no test ever sends a packet elsewhere."""

    async def connect_tcp(self, host, port, *rest, **options):  # type: ignore[no-untyped-def]  # httpcore2's signature
        """Connect, or fail the test."""
        if host != "127.0.0.1":
            raise AssertionError(f"a packet would have gone to {host}")
        return await super().connect_tcp(host, port, *rest, **options)
