"""A page may be anywhere and say anything: what is not public, small and timely is not read."""

import asyncio
import gzip
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import hpack
import httpcore2
import pytest
from hyperframe import frame as frames

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.web import SafeWeb
from tests.fakes.internet import (
    PUBLIC_ADDRESS,
    Answer,
    FakeResolver,
    FakeSockets,
    http_answer,
    trickle,
)

SITE = "http://site.example/"
MAX_BYTES = 10_000
Site = tuple[SafeWeb, FakeSockets, FakeResolver]
MakeSite = Callable[..., Site]


@pytest.fixture
async def make_site() -> AsyncIterator[MakeSite]:
    """Makes a web in which site.example is public and answers as the test says."""
    made: list[SafeWeb] = []

    def make(
        *answers: Answer,
        names: dict[str, Any] | None = None,
        others: dict[tuple[str, int], Answer | list[Answer]] | None = None,
        **arguments: Any,
    ) -> Site:
        resolver = FakeResolver({"site.example": [PUBLIC_ADDRESS]} | (names or {}))
        served: dict[tuple[str, int], Answer | list[Answer]] = {
            (PUBLIC_ADDRESS, 80): list(answers),
            (PUBLIC_ADDRESS, 443): list(answers),
        }
        sockets = FakeSockets(served | (others or {}))
        given = {"timeout_s": 2.0, "max_page_bytes": MAX_BYTES} | arguments
        made.append(SafeWeb(resolve=resolver, sockets=sockets, **given))
        return made[-1], sockets, resolver

    yield make
    for web in made:
        await web.aclose()


async def refusal(web: SafeWeb, url: str) -> str:
    with pytest.raises(StepInputError) as refused:
        await web.read_page(url)
    return str(refused.value)


async def outage(web: SafeWeb, url: str = SITE) -> str:
    with pytest.raises(StepTransientError) as failed:
        await web.read_page(url)
    return str(failed.value)


async def test_a_page_is_read_from_the_checked_address(make_site: MakeSite) -> None:
    """One look-up; the socket goes to its answer, and the Host header keeps the name."""
    web, sockets, resolver = make_site(http_answer(b"Hello"))

    page = await web.read_page(SITE + "a?b=c")

    assert (page.url, page.title, page.text) == (SITE + "a?b=c", None, "Hello")
    assert resolver.lookups == ["site.example"]
    assert sockets.connects == [(PUBLIC_ADDRESS, 80)]
    assert b"GET /a?b=c HTTP/1.1\r\nHost: site.example\r\n" in b"".join(sockets.sent)


async def test_tls_is_checked_against_the_name(make_site: MakeSite) -> None:
    """The address is pinned, yet SNI and certificate check use the host name."""
    web, sockets, _ = make_site(http_answer(b"Hello"))

    await web.read_page("https://site.example/")

    assert sockets.connects == [(PUBLIC_ADDRESS, 443)]
    assert sockets.tls_names == ["site.example"]


HOSTILE = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://127.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fec0::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[ff02::1]/",
    "http://127.0.0.1.nip.example/",
    "http://private.example/",
    "http://mixed.example/",
    "http://LOCALHOST./",
    "http://127.0.0.1./",
    "http://127\u30020\u30020\u30021/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://\uff11\uff12\uff17.0.0.1/",  # full-width digits
    "http://site.example@127.0.0.1/",
    "http://127.0.0.1@site.example/",
    "http://127.0.0.1:80@site.example/",
    "http://127.0.0.1#@site.example/",
    "http://127.0.0.1\\@site.example/",
    "http://site.example:22/",
    "http://site.example:6379/",
    "http://site.example:8080/",
    "http:///etc/passwd",
    "http://",
    "file:///etc/passwd",
    "ftp://site.example/",
    "ftp://site.example:80/",
    "http://site.example:0/",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "data:text/plain,hello",
    "javascript:alert(1)",
    "//site.example/",
    "site.example",
    "http://[::1/",
    "http://site.example:99999/",
    "http://" + "a" * 64 + ".example/",
    "http://a..example/",
    "http://\x00/",
    "http://absent.example/",
]
HOSTILE_NAMES = {
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
    "127.0.0.1.": ["127.0.0.1"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
    "private.example": ["10.0.0.7"],
    "mixed.example": [PUBLIC_ADDRESS, "10.0.0.7"],
    "absent.example": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "a" * 64 + ".example": UnicodeError("label too long"),
}


@pytest.mark.parametrize("url", HOSTILE)
async def test_a_hostile_address_is_never_connected_to(make_site: MakeSite, url: str) -> None:
    """It is refused for good, before any packet leaves."""
    web, sockets, _ = make_site(names=HOSTILE_NAMES)

    await refusal(web, url)

    assert sockets.connects == []


# As a redirect these lead back to the site itself.
RELATIVE = ["http:///etc/passwd", "http://", "//site.example/", "site.example"]


@pytest.mark.parametrize("url", [url for url in HOSTILE if url not in RELATIVE])
async def test_a_redirect_to_a_hostile_address_is_refused(make_site: MakeSite, url: str) -> None:
    """Each hop is checked like the first; only the public site itself is connected to."""
    redirect = http_answer(status=302, location=url.replace("\x00", "%00"), connection="close")
    web, sockets, _ = make_site(redirect, names=HOSTILE_NAMES)

    with pytest.raises((StepInputError, StepTransientError)):
        await web.read_page(SITE)

    assert sockets.connects == [(PUBLIC_ADDRESS, 80)]


async def test_a_rebinding_name_is_looked_up_once_per_connection(make_site: MakeSite) -> None:
    """A name that is public when checked and private afterwards gains nothing."""
    rebinding: list[Sequence[str]] = [[PUBLIC_ADDRESS], ["127.0.0.1"]]
    web, sockets, resolver = make_site(http_answer(b"Hello"), names={"site.example": rebinding})

    await web.read_page(SITE)
    await refusal(web, SITE)

    assert resolver.lookups == ["site.example", "site.example"]
    assert sockets.connects == [(PUBLIC_ADDRESS, 80)]


async def test_a_name_that_turns_private_between_redirects_is_refused(make_site: MakeSite) -> None:
    """A second hop to the same name does not trust the first look-up."""
    rebinding: list[Sequence[str]] = [[PUBLIC_ADDRESS], ["169.254.169.254"]]
    redirect = http_answer(status=307, location="/next", connection="close")
    web, sockets, _ = make_site(redirect, names={"site.example": rebinding})

    assert await refusal(web, SITE) == "site.example is not on the public internet"
    assert sockets.connects == [(PUBLIC_ADDRESS, 80)]


async def test_the_next_address_is_tried(make_site: MakeSite) -> None:
    """A dead address of a host with several does not hide the host; many dead ones end."""
    web, sockets, _ = make_site(
        http_answer(b"Hello"),
        names={
            "site.example": ["2606:4700::1", PUBLIC_ADDRESS],
            "dead.example": [f"1.1.1.{number}" for number in range(1, 200)],
        },
    )

    assert (await web.read_page(SITE)).text == "Hello"
    assert await outage(web, "http://dead.example/") == "no answer: dead.example does not answer"
    assert len(sockets.connects) == 2 + 3


async def test_allowed_private_hosts_are_exact(make_site: MakeSite) -> None:
    """Host and port as the operator wrote them, and nothing beside them."""
    web, sockets, _ = make_site(
        names={"wiki.internal": ["10.0.0.9"]},
        others={
            ("10.0.0.9", 8080): http_answer(b"Wiki"),
            ("127.0.0.1", 9000): http_answer(b"Local"),
            ("::1", 9000): http_answer(b"Six"),
        },
        allowed_private_hosts=("Wiki.internal:8080", "127.0.0.1:9000", "[::1]:9000"),
    )

    assert (await web.read_page("http://wiki.internal:8080/x")).text == "Wiki"
    assert (await web.read_page("http://127.0.0.1:9000/")).text == "Local"
    assert (await web.read_page("http://[::1]:9000/")).text == "Six"
    for url in ("http://wiki.internal/", "http://10.0.0.9:8080/", "http://2130706433:9000/"):
        await refusal(web, url)
    assert sockets.connects == [("10.0.0.9", 8080), ("127.0.0.1", 9000), ("::1", 9000)]


async def test_redirects_are_followed(make_site: MakeSite) -> None:
    """Relative and absolute ones; the page's address is the last."""
    web, _, _ = make_site(
        http_answer(status=301, location="/a", connection="close"),
        http_answer(status=302, location="b?c", connection="close"),
        http_answer(status=308, location="http://site.example/d", connection="close"),
        http_answer(b"Hello"),
    )

    assert (await web.read_page(SITE)).url == SITE + "d"


async def test_a_redirect_loop_ends(make_site: MakeSite) -> None:
    """Six documents are enough."""
    loop = [http_answer(status=302, location="/", connection="close")] * 50
    web, sockets, _ = make_site(*loop)

    assert await refusal(web, SITE) == "more than 5 redirects"
    assert len(sockets.connects) == 6


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 403, 404, 410, 451])
async def test_what_is_not_there_is_refused_for_good(make_site: MakeSite, status: int) -> None:
    """Another try gives the same."""
    web, _, _ = make_site(http_answer(b"no", status=status))

    assert await refusal(web, SITE) == f"it answered {status}"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_a_server_in_trouble_may_be_asked_again(make_site: MakeSite, status: int) -> None:
    """Another try may help."""
    web, _, _ = make_site(http_answer(b"no", status=status))

    assert await outage(web) == f"it answered {status}"


@pytest.mark.parametrize(
    "content_type", ["application/pdf", "image/png", "application/octet-stream", "application/json"]
)
async def test_what_is_no_page_is_refused(make_site: MakeSite, content_type: str) -> None:
    """The reason names the type."""
    web, _, _ = make_site(http_answer(b"%PDF-1.7", content_type=content_type))

    assert await refusal(web, SITE) == f"{content_type} is not read"


@pytest.mark.parametrize("raw", ["Grüße".encode(), "Grüße".encode("latin-1")])
async def test_plain_text_is_read(make_site: MakeSite, raw: bytes) -> None:
    """In UTF-8 or as old files have it."""
    web, _, _ = make_site(http_answer(raw))

    assert (await web.read_page(SITE)).text == "Grüße"


async def test_an_empty_page_is_refused(make_site: MakeSite) -> None:
    """A source without text is not found."""
    web, _, _ = make_site(http_answer(b" \n"))

    assert await refusal(web, SITE) == "the page holds no text"


async def test_a_large_page_is_refused(make_site: MakeSite) -> None:
    """The limit itself is still read."""
    web, _, _ = make_site(
        http_answer(b"x" * MAX_BYTES, connection="close"), http_answer(b"x" * (MAX_BYTES + 1))
    )

    assert len((await web.read_page(SITE)).text) == MAX_BYTES
    assert await refusal(web, SITE) == f"it is larger than {MAX_BYTES} bytes"


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
async def test_a_compressed_page_is_read(
    make_site: MakeSite, compress: Callable[[bytes], bytes]
) -> None:
    """Gzip, also in zlib's clothes."""
    web, _, _ = make_site(http_answer(compress(b"Hello"), content_encoding="gzip"))

    assert (await web.read_page(SITE)).text == "Hello"


async def test_a_bomb_is_not_unpacked(make_site: MakeSite) -> None:
    """A hundred megabytes in a hundred kilobytes: only the limit is ever unpacked."""
    bomb = gzip.compress(b"\0" * 100_000_000)
    web, _, _ = make_site(http_answer(bomb, content_encoding="gzip"))
    started = time.process_time()

    assert await refusal(web, SITE) == f"it is larger than {MAX_BYTES} bytes"
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate"])
async def test_other_packings_are_refused(make_site: MakeSite, encoding: str) -> None:
    """They were not asked for."""
    web, _, _ = make_site(http_answer(b"x", content_encoding=encoding))

    assert await refusal(web, SITE) == f"{encoding} cannot be unpacked"


async def test_broken_gzip_is_refused(make_site: MakeSite) -> None:
    """Damage is an answer, not a crash."""
    web, _, _ = make_site(http_answer(b"not gzip at all", content_encoding="gzip"))

    assert await refusal(web, SITE) == "its compression is damaged"


CHUNKED = b"HTTP/1.1 200 X\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_a_slow_page_is_given_up(make_site: MakeSite) -> None:
    """A byte now and then keeps no step: the limit is for the whole document."""
    slow = trickle(CHUNKED, b"1\r\nx\r\n", pause_s=0.02)
    web, _, _ = make_site(slow, timeout_s=0.2)
    started = time.monotonic()

    assert await outage(web) == "no complete answer within 0.2 s"
    assert time.monotonic() - started < 1


async def test_slow_headers_are_given_up(make_site: MakeSite) -> None:
    """Headers may trickle as well."""
    slow = trickle(b"HTTP/1.1 200 X\r\n", b"x-a: b\r\n", pause_s=0.02)
    web, _, _ = make_site(slow, timeout_s=0.2)

    assert await outage(web) == "no complete answer within 0.2 s"


async def test_a_slow_name_server_is_given_up() -> None:
    """The look-up counts too."""

    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    web = SafeWeb(timeout_s=0.1, max_page_bytes=MAX_BYTES, resolve=never, sockets=FakeSockets({}))

    assert await outage(web) == "no complete answer within 0.1 s"
    await web.aclose()


async def test_an_endless_page_is_cut_off(make_site: MakeSite) -> None:
    """A fast body without an end is refused at the limit."""
    endless = trickle(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n", pause_s=0)
    web, _, _ = make_site(endless)

    assert await refusal(web, SITE) == f"it is larger than {MAX_BYTES} bytes"


async def test_endless_headers_are_cut_off(make_site: MakeSite) -> None:
    """So is a head without an end."""
    endless = trickle(b"HTTP/1.1 200 X\r\n", b"x-a: " + b"b" * 1000 + b"\r\n", pause_s=0)
    web, _, _ = make_site(endless)

    assert (await outage(web)).startswith("no answer: ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 200 X\r\ncontent-length: 100\r\ncontent-type: text/plain\r\n\r\nshort",
        httpcore2.ConnectTimeout("timed out"),
        httpcore2.ReadError("reset"),
    ],
)
async def test_a_broken_conversation_may_be_tried_again(
    make_site: MakeSite, answer: Answer
) -> None:
    """What answers no HTTP, or stops in the middle, is an outage."""
    web, _, _ = make_site(answer)

    assert (await outage(web)).startswith("no answer: ")


async def test_a_name_server_in_trouble_may_be_asked_again(make_site: MakeSite) -> None:
    """No answer about a name is not the answer that there is none."""
    trouble = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    web, _, _ = make_site(names={"site.example": trouble})

    assert await outage(web) == "no answer: site.example could not be looked up"


async def test_a_proxy_of_the_environment_is_not_used(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect for us, unchecked."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    web, sockets, _ = make_site(http_answer(b"Hello"))

    await web.read_page(SITE)

    assert sockets.connects == [(PUBLIC_ADDRESS, 80)]


async def test_cookies_do_not_outlive_a_read(make_site: MakeSite) -> None:
    """No site recognises one run's reader in another's."""
    web, sockets, _ = make_site(
        http_answer(b"one", set_cookie="id=1", connection="close"), http_answer(b"two")
    )

    await web.read_page(SITE)
    await web.read_page(SITE)

    assert b"cookie" not in b"".join(sockets.sent).lower()


async def test_a_feed_is_read_with_its_query(make_site: MakeSite) -> None:
    """Parameters are added to the address and escaped."""
    web, sockets, _ = make_site(http_answer(b"<feed/>", content_type="application/atom+xml"))

    feed = await web.read_feed(SITE + "api?v=1", {"search_query": 'au:"A & B"'})

    assert feed == b"<feed/>"
    assert b"GET /api?v=1&search_query=au%3A%22A+%26+B%22 " in b"".join(sockets.sent)


async def test_a_page_is_no_feed(make_site: MakeSite) -> None:
    """An error page in place of a feed is refused."""
    web, _, _ = make_site(http_answer(b"<html>", content_type="text/html"))

    with pytest.raises(StepInputError, match="text/html is not read"):
        await web.read_feed(SITE, {})


async def test_http_2_is_spoken() -> None:
    """Servers that offer it over TLS are read by it."""
    headers = hpack.Encoder().encode([(b":status", b"200"), (b"content-type", b"text/plain")])
    sockets = httpcore2.AsyncMockBackend(
        http2=True,
        buffer=[
            frames.SettingsFrame().serialize(),
            frames.HeadersFrame(stream_id=1, data=headers, flags=["END_HEADERS"]).serialize(),
            frames.DataFrame(stream_id=1, data=b"Hello", flags=["END_STREAM"]).serialize(),
        ],
    )
    resolver = FakeResolver({"site.example": [PUBLIC_ADDRESS]})
    web = SafeWeb(timeout_s=2, max_page_bytes=MAX_BYTES, resolve=resolver, sockets=sockets)

    assert (await web.read_page("https://site.example/")).text == "Hello"
    await web.aclose()
