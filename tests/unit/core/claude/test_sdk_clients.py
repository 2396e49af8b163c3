"""services.core.claude.sdk_clients: which client has which calls."""

from contextlib import AsyncExitStack

import anthropic
import httpx2

from config.anthropic import AnthropicSettings
from services.core.claude.sdk_clients import CALLS_EACH, SdkClients


def clients(
    http_client: httpx2.AsyncClient | None = None, *, max_connections: int = 60
) -> SdkClients:
    """Clients that never connect."""
    settings = AnthropicSettings(
        api_key=None, simulator_url="http://127.0.0.1:1", max_connections=max_connections
    )
    return SdkClients(settings, http_client=http_client)


class Calls(AsyncExitStack):
    """Calls that go on until they are ended."""

    def __init__(self, source: SdkClients) -> None:
        super().__init__()
        self._source = source

    async def begin(self, count: int) -> list[anthropic.AsyncAnthropic]:
        """The client of each new call."""
        return [await self.enter_async_context(self._source.client()) for _ in range(count)]


async def test_each_client_has_a_few_calls_and_the_first_with_room_gets_the_next() -> None:
    """So that no pool of connections grows large, and a call finds a connection that another has left."""
    source = clients()

    async with Calls(source) as first, Calls(source) as second, Calls(source) as third:
        held = [*await first.begin(CALLS_EACH), *await second.begin(CALLS_EACH)]
        await first.aclose()
        [following] = await third.begin(1)

    assert [CALLS_EACH, CALLS_EACH] == [held.count(client) for client in dict.fromkeys(held)]
    assert following is held[0] is source.first


async def test_a_client_that_nobody_uses_is_closed_but_for_the_first() -> None:
    """After a burst no connections are left behind."""
    source = clients()

    async with Calls(source) as calls:
        used = set(await calls.begin(2 * CALLS_EACH))
        assert not any(client.is_closed() for client in used)

    assert {source.first} == {client for client in used if not client.is_closed()}
    await source.aclose()
    assert source.first.is_closed()


async def test_all_clients_together_have_as_many_connections_as_the_settings_say() -> None:
    """Further calls are spread over the pools, and wait there."""
    source = clients(max_connections=CALLS_EACH + 2)

    async with Calls(source) as calls:
        used = await calls.begin(CALLS_EACH + 2)
        more = await calls.begin(CALLS_EACH + 2)

    assert len(set(used)) == 2
    assert (
        sorted(map(used.count, set(used))) == sorted(map(more.count, set(more))) == [2, CALLS_EACH]
    )
    async with Calls(source) as again:
        assert len(set(await again.begin(CALLS_EACH + 2))) == 2


async def test_a_given_http_client_has_all_connections() -> None:
    """As tests give one."""
    source = clients(httpx2.AsyncClient())

    async with Calls(source) as calls:
        assert {source.first} == set(await calls.begin(2 * CALLS_EACH))
