"""Reads web pages that strangers wrote, at addresses that strangers chose. See ADR-0007."""

import asyncio
import ssl
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

import httpcore2
import httpx2
from httpx2 import codes

from services.core.errors import StepInputError, StepTransientError
from services.pipelines.definition import WebPage
from services.pipelines.page_extractor import PageExtractor
from services.pipelines.public_network import (
    MAX_CONNECT_TRIES,
    PUBLIC_PORTS,
    PublicNetwork,
    Resolve,
    SystemResolver,
)

MAX_REDIRECTS = 5
MAX_READS = 32
"""Reads at once per process: each may hold max_page_bytes in memory."""
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", ""})
PAGE_TYPES = HTML_TYPES | {"text/plain", "text/markdown"}
FEED_TYPES = frozenset(
    {"application/atom+xml", "application/rss+xml", "application/xml", "text/xml", ""}
)
DEFAULT_PORTS = {"http": 80, "https": 443}
TRANSIENT_STATUS = frozenset({408, 425, 429})
HEADERS = {
    "user-agent": "penstock/0.1 (reads pages for outreach emails)",
    # Only what is unpacked here, in bounded pieces.
    "accept-encoding": "gzip",
}
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


@dataclass(frozen=True, slots=True)
class Document:
    """What an address gave."""

    url: str
    """After redirects."""
    media_type: str
    charset: str | None
    raw: bytes
    """Unpacked."""


class SafeWeb:
    """The Web of definition.py. Belongs to one event loop; close it with aclose()."""

    def __init__(
        self,
        *,
        timeout_s: float,
        max_page_bytes: int,
        allowed_private_hosts: Collection[str] = (),
        resolve: Resolve | None = None,
        sockets: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        """Make a reader.

        Args:
            timeout_s: Seconds for one document: look-up, redirects and the last byte included.
            max_page_bytes: Largest document, after unpacking.
            allowed_private_hosts: Each "host:port"; exactly these may be private, or on a port
                other than 80 and 443.
            resolve: Looks host names up; None means the machine's resolver.
            sockets: Opens sockets to checked addresses; None means real ones.
        """
        self._timeout_s = timeout_s
        self._max_page_bytes = max_page_bytes
        self._system_resolver = SystemResolver()
        self._network = PublicNetwork(
            resolve=resolve or self._system_resolver,
            allowed_private_hosts=allowed_private_hosts,
            sockets=sockets,
        )
        self._reads = asyncio.Semaphore(MAX_READS)
        self._extractor = PageExtractor()

    async def aclose(self) -> None:
        """End the extracting process and the resolver's threads."""
        self._extractor.close()
        self._system_resolver.close()

    async def read_page(self, url: str) -> WebPage:
        """Fetch a page and extract its text; errors as Web.read_page says."""
        page = await self._read(url, PAGE_TYPES)
        if page.media_type in HTML_TYPES:
            title, text = await self._extractor.extract(page.raw, page.charset)
        else:
            title, text = "", _plain_text(page.raw)
        if not text.strip():
            raise StepInputError("the page holds no text")
        return WebPage(url=page.url, title=title or None, text=text)

    async def read_feed(self, url: str, params: dict[str, str]) -> bytes:
        """Fetch a feed's bytes; errors as Web.read_page says."""
        feed = await self._read(str(httpx2.URL(url).copy_merge_params(params)), FEED_TYPES)
        return feed.raw

    async def _read(self, url: str, media_types: Collection[str]) -> Document:
        async with self._reads:
            try:
                async with asyncio.timeout(self._timeout_s), self._new_client() as client:
                    return await self._follow(client, url, media_types)
            except TimeoutError as error:
                raise StepTransientError(
                    f"no complete answer within {self._timeout_s:g} s"
                ) from error
            except httpx2.TransportError as error:
                raise StepTransientError(f"no answer: {error or type(error).__name__}") from error
            except httpx2.InvalidURL as error:
                raise StepInputError(f"the address is malformed: {error}") from error

    def _new_client(self) -> httpx2.AsyncClient:
        """A client of its own for each read: no cookie and no connection is shared."""
        return httpx2.AsyncClient(
            transport=_PublicTransport(network=self._network, tls=_tls_context()),
            # The whole read has one limit; a single dead address must not use it up.
            timeout=httpx2.Timeout(None, connect=self._timeout_s / MAX_CONNECT_TRIES),
            headers=HEADERS,
            follow_redirects=False,
            trust_env=False,
        )

    async def _follow(
        self, client: httpx2.AsyncClient, address: str, media_types: Collection[str]
    ) -> Document:
        url = httpx2.URL(address)
        for _ in range(MAX_REDIRECTS + 1):
            self._check_url(url)
            async with client.stream("GET", url) as response:
                if not response.has_redirect_location:
                    return await self._document(response, media_types)
                url = url.join(response.headers["location"])
        raise StepInputError(f"more than {MAX_REDIRECTS} redirects")

    def _check_url(self, url: httpx2.URL) -> None:
        """Refuse what is no plain web address; where its host leads is checked on connecting."""
        if url.scheme not in DEFAULT_PORTS or not url.host or url.userinfo:
            raise StepInputError("only http and https addresses without user name are read")
        port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if port not in PUBLIC_PORTS and not self._network.is_allowed_private(url.host, port):
            raise StepInputError(f"port {port} is not read, only 80 and 443")

    async def _document(self, response: httpx2.Response, media_types: Collection[str]) -> Document:
        _check_status(response.status_code)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in media_types:
            raise StepInputError(f"{media_type} is not read")
        return Document(
            url=str(response.url),
            media_type=media_type,
            charset=response.charset_encoding,
            raw=await self._body(response),
        )

    async def _body(self, response: httpx2.Response) -> bytes:
        unpack = _unpacker(response.headers.get("content-encoding", "identity").strip().lower())
        body = bytearray()
        async for piece in response.aiter_raw():
            body += unpack(piece, self._max_page_bytes + 1 - len(body))
            if len(body) > self._max_page_bytes:
                raise StepInputError(f"it is larger than {self._max_page_bytes} bytes")
        return bytes(body)


class _PublicTransport(httpx2.AsyncHTTPTransport):
    """HTTPX's transport on our network; HTTPX takes no network backend, its pool does."""

    def __init__(self, *, network: PublicNetwork, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, http2=True, network_backend=network
        )


def _plain_text(raw: bytes) -> str:
    """UTF-8, or else what old files are in."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


@cache
def _tls_context() -> ssl.SSLContext:
    """One for all reads: loading the certificates takes longer than a small page."""
    return httpx2.create_ssl_context(trust_env=False)


def _check_status(status: int) -> None:
    if status in TRANSIENT_STATUS or status >= codes.INTERNAL_SERVER_ERROR:
        raise StepTransientError(f"it answered {status}")
    if status != codes.OK:
        raise StepInputError(f"it answered {status}")


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """Unpacks pieces, each to a given number of bytes at most: a small piece may hold gigabytes."""
    if encoding in {"", "identity"}:
        return lambda piece, _: piece
    if encoding not in {"gzip", "x-gzip"}:
        raise StepInputError(f"{encoding} cannot be unpacked")
    inflater = zlib.decompressobj(GZIP_OR_ZLIB)

    def inflate(piece: bytes, max_bytes: int) -> bytes:
        try:
            return inflater.decompress(piece, max_bytes)
        except zlib.error as error:
            raise StepInputError("its compression is damaged") from error

    return inflate
