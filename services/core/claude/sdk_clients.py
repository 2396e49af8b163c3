"""The SDK's clients, which hold the connections to Claude.

A pool of HTTPX looks at all of its connections, and asks the system about some, whenever a call begins and whenever one
ends. For a thousand calls in one pool that was 0.7 ms of the 2.7 ms of a call's HTTP, so each client has a few. ADR 6.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from ssl import SSLContext

import anthropic
import httpx2

from config.anthropic import AnthropicSettings

SIMULATOR_KEY = "sk-simulator"
"""The simulator takes any key; a real one is never sent to it."""
CALLS_EACH = 25
"""Calls of one client at once. Another client costs 0.1 ms and 4 KiB."""


@cache
def _certificates() -> SSLContext:
    """Whom connections trust: read once, as that takes milliseconds and megabytes."""
    return httpx2.create_ssl_context()


def sdk_client(
    settings: AnthropicSettings,
    http_client: httpx2.AsyncClient | None = None,
    *,
    max_connections: int | None = None,
) -> anthropic.AsyncAnthropic:
    """The SDK's client: no retries, since the record owns them.

    Args:
        settings: Where Claude is.
        http_client: Replaces the one that the settings' timeouts would give.
        max_connections: Of that one; None means all that the settings allow.
    """
    timeout = httpx2.Timeout(settings.timeout_s, connect=settings.connect_timeout_s)
    limits = httpx2.Limits(max_connections=max_connections or settings.max_connections)
    if settings.is_simulated:
        api_key, base_url = SIMULATOR_KEY, settings.simulator_url
    else:
        api_key = settings.api_key.get_secret_value() if settings.api_key else ""
        base_url = settings.base_url
    client = anthropic.AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        timeout=timeout,
        max_retries=0,
        open_telemetry={"traces": False},  # ours is in chat_span.py
        http_client=http_client
        or anthropic.DefaultAsyncHttpxClient(
            timeout=timeout, limits=limits, verify=_certificates()
        ),
    )
    _ = client.messages.batches  # imports what calls need, before a call waits for it
    return client


class _Line(AbstractAsyncContextManager[anthropic.AsyncAnthropic]):
    """A client, and how many calls use it. A call is a block within; no generator, of which each would need one."""

    __slots__ = ("_on_unused", "calls", "client", "max_calls")

    def __init__(
        self,
        client: anthropic.AsyncAnthropic,
        max_calls: int,
        on_unused: Callable[["_Line"], Awaitable[None]],
    ) -> None:
        self.client = client
        self.max_calls = max_calls
        self.calls = 0
        self._on_unused = on_unused

    async def __aenter__(self) -> anthropic.AsyncAnthropic:
        self.calls += 1
        return self.client

    async def __aexit__(self, *error: object) -> None:
        self.calls -= 1
        if not self.calls:
            await self._on_unused(self)


class SdkClients:
    """Gives each call a client with room for it; one per event loop, for its connections.

    The first one with room, so that calls gather in few clients and find connections there; one that nobody uses any
    more is closed with those, the first one apart.
    """

    def __init__(
        self, settings: AnthropicSettings, *, http_client: httpx2.AsyncClient | None = None
    ) -> None:
        """Set up, without connecting.

        Args:
            settings: Where Claude is, and how many connections to it there may be.
            http_client: Has all connections, if it is given.
        """
        self._settings = settings
        self._left = settings.max_connections
        self._lines = [self._new_line(http_client)]

    @property
    def first(self) -> anthropic.AsyncAnthropic:
        """The one that is always there."""
        return self._lines[0].client

    def client(self) -> AbstractAsyncContextManager[anthropic.AsyncAnthropic]:
        """A client for one call, which begins at once; where all have as many as they may, it waits in one of them."""
        return self._line_with_room()

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""
        for line in self._lines:
            await line.client.close()

    def _line_with_room(self) -> _Line:
        for line in self._lines:
            if line.calls < line.max_calls:
                return line
        if self._left:
            self._lines.append(self._new_line())
            return self._lines[-1]
        return min(self._lines, key=lambda line: line.calls / line.max_calls)

    def _new_line(self, http_client: httpx2.AsyncClient | None = None) -> _Line:
        max_calls = self._left if http_client else min(CALLS_EACH, self._left)
        self._left -= max_calls
        client = sdk_client(self._settings, http_client, max_connections=max_calls)
        return _Line(client, max_calls, self._drop)

    async def _drop(self, line: _Line) -> None:
        if line is not self._lines[0]:
            self._lines.remove(line)
            self._left += line.max_calls
            await line.client.close()
