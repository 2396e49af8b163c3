"""The reader on real sockets: what it promises against a server that misbehaves."""

import gzip
import socket
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.web import SafeWeb
from tests.fakes.data import read_data
from tests.fakes.internet import http_answer
from tests.fakes.page_server import LoopbackOnly, PageServer

HTML = "text/html; charset=utf-8"


@pytest.fixture
async def web(pages: PageServer) -> AsyncIterator[SafeWeb]:
    """A reader that may read the local server, and nothing else that is private."""
    web = SafeWeb(
        timeout_s=1,
        max_page_bytes=100_000,
        allowed_private_hosts=[pages.host],
        sockets=LoopbackOnly(),
    )
    yield web
    await web.aclose()


async def test_a_page_is_fetched_and_its_text_found(pages: PageServer, web: SafeWeb) -> None:
    """From the socket to the text, compressed and behind a redirect."""
    packed = gzip.compress(read_data("researcher.html").encode())
    pages.answers["/old"] = http_answer(status=301, location="/people/solheim?tab=1")
    pages.answers["/people/solheim"] = http_answer(
        packed, content_type=HTML, content_encoding="gzip"
    )

    page = await web.read_page(pages.url("/old"))

    assert page.url == pages.url("/people/solheim?tab=1")
    assert page.title == "Prof. Ingrid Solheim \u2013 Geophysical Fluids Group"
    assert "In 2025 she received the Nordlys Prize" in page.text
    assert "cookies" not in page.text


async def test_a_feed_is_fetched(pages: PageServer, web: SafeWeb) -> None:
    """Its bytes come as they are."""
    feed = read_data("arxiv.xml").encode()
    pages.answers["/api/query"] = http_answer(feed, content_type="application/atom+xml")

    assert await web.read_feed(pages.url("/api/query"), {"search_query": 'au:"I S"'}) == feed
    assert pages.requests == ["/api/query?search_query=au%3A%22I+S%22"]


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1/",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://0x7f.1/",
        "file:///etc/passwd",
    ],
)
async def test_a_redirect_does_not_leave_the_allowed_host(
    pages: PageServer, web: SafeWeb, location: str
) -> None:
    """That one private host may be read says nothing about the next."""
    pages.answers["/"] = http_answer(status=302, location=location)

    with pytest.raises(StepInputError):
        await web.read_page(pages.url("/"))


async def test_the_local_server_is_private_without_leave(pages: PageServer) -> None:
    """By its address and by a name that points to it; no request arrives."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    web = SafeWeb(timeout_s=1, max_page_bytes=1000, resolve=resolve, sockets=LoopbackOnly())
    for url in (pages.url("/"), "http://site.example/"):
        with pytest.raises(StepInputError):
            await web.read_page(url)
    await web.aclose()

    assert pages.requests == []


async def test_silence_and_refusal_are_outages(pages: PageServer, web: SafeWeb) -> None:
    """A server that accepts and says nothing, and a port that nobody listens on."""
    pages.answers["/silent"] = None
    started = time.monotonic()

    with pytest.raises(StepTransientError, match="no complete answer within 1 s"):
        await web.read_page(pages.url("/silent"))

    assert time.monotonic() - started < 3
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{unused.getsockname()[1]}"
        web = SafeWeb(timeout_s=1, max_page_bytes=1000, allowed_private_hosts=[closed])
        with pytest.raises(StepTransientError, match="does not answer"):
            await web.read_page(f"http://{closed}/")
        await web.aclose()


async def test_a_bomb_costs_nothing(pages: PageServer, web: SafeWeb) -> None:
    """Fifty megabytes of nothing, packed."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    pages.answers["/bomb"] = http_answer(bomb, content_type=HTML, content_encoding="gzip")

    with pytest.raises(StepInputError, match="larger than 100000 bytes"):
        await web.read_page(pages.url("/bomb"))


@pytest.mark.parametrize(("status", "error"), [(404, StepInputError), (500, StepTransientError)])
async def test_errors_of_the_server_are_told_apart(
    pages: PageServer, web: SafeWeb, status: int, error: type[Exception]
) -> None:
    """Gone is for good, broken may pass."""
    pages.answers["/"] = http_answer(b"<p>sorry</p>", status=status, content_type=HTML)

    with pytest.raises(error, match=f"it answered {status}"):
        await web.read_page(pages.url("/"))
