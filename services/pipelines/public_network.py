"""Connections that lead to the public internet and nowhere else.

A host name is resolved once, every address is checked, and the socket goes to a checked address. So
neither a redirect nor a name that resolves differently the second time (DNS rebinding) reaches a
private network. httpcore2 does TLS on top, with the name as SNI and in the certificate check.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpcore2

from services.core.errors import StepInputError

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host name; raises socket.gaierror."""

PUBLIC_PORTS = frozenset({80, 443})
MAX_CONNECT_TRIES = 3
"""Addresses tried per connection: a name with hundreds of dead ones must not hold a step."""

# IANA's special-purpose registries, written out because ipaddress.is_global differs between Python
# versions and calls multicast, NAT64, 6to4 and site-local addresses global.
# https://www.iana.org/assignments/iana-ipv4-special-registry
CLOSED_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers (CGNAT); Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's wire server: a public address only by its number
        "169.254.0.0/16",  # link-local; most clouds' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # Oracle's metadata service
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Only 2000::/3 is global unicast: that leaves out loopback, IPv4-mapped, NAT64, ULA (AWS's metadata
# service), link-local, site-local and multicast addresses. Of the rest these are closed:
# https://www.iana.org/assignments/iana-ipv6-special-registry
OPEN_IPV6 = ipaddress.IPv6Network("2000::/3")
CLOSED_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them: an IPv4 address inside
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody on the internet may be asked at."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in CLOSED_IPV4)
    if ip.scope_id is not None or ip not in OPEN_IPV6:
        return False
    return not any(ip in network for network in CLOSED_IPV6)


class SystemResolver:
    """The machine's resolver, in threads of its own.

    getaddrinfo has no time limit: in asyncio's shared threads a hostile name server could hold up
    every other look-up of the process.
    """

    def __init__(self, *, threads: int = 8) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The host's addresses, in the order in which they are to be tried."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        """End the threads without waiting for look-ups under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Opens sockets to checked public addresses, and to the private hosts that were allowed."""

    def __init__(
        self,
        *,
        resolve: Resolve,
        allowed_private_hosts: Collection[str] = (),
        sockets: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        """Make a network.

        Args:
            resolve: Asked exactly once per connection.
            allowed_private_hosts: Each "host:port"; exactly these may be private.
            sockets: What opens the socket to a checked IP address.
        """
        self._resolve = resolve
        self._allowed_private_hosts = frozenset(host.lower() for host in allowed_private_hosts)
        self._sockets = sockets or httpcore2.AnyIOBackend()

    def is_allowed_private(self, host: str, port: int) -> bool:
        """Whether the operator opened this host and port."""
        bracketed = f"[{host}]" if ":" in host else host
        return f"{bracketed}:{port}".lower() in self._allowed_private_hosts

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers.

        Raises:
            StepInputError: The host has no address, or one that is not public.
            httpcore2.ConnectError: None answers.
        """
        addresses = await self._checked_addresses(host, port)
        for address in addresses[:MAX_CONNECT_TRIES]:
            try:
                return await self._sockets.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        raise httpcore2.ConnectError(f"{host} does not answer")

    async def _checked_addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except socket.gaierror as error:
            if error.errno in {socket.EAI_NONAME, socket.EAI_NODATA}:
                raise StepInputError(f"there is no host {host}") from error
            raise httpcore2.ConnectError(f"{host} could not be looked up") from error
        except UnicodeError as error:
            raise StepInputError(f"{host} is no host name") from error
        # One private address among public ones is refused too: trying only the others would tell a
        # prober which is which.
        if not self.is_allowed_private(host, port) and not all(map(is_public, addresses)):
            raise StepInputError(f"{host} is not on the public internet")
        return addresses
