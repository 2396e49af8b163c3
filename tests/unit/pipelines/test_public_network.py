"""What counts as public."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipelines.public_network import is_public

CLOSED = [
    "0.0.0.0",  # noqa: S104 - nothing is bound
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
]
OPEN = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "192.169.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "2001:4860:4860::8888",
]


@pytest.mark.parametrize("address", CLOSED)
def test_special_addresses_are_closed(address: str) -> None:
    """Private, local, shared, reserved, translated, multicast and metadata addresses."""
    assert not is_public(address)


@pytest.mark.parametrize("address", OPEN)
def test_the_internet_is_open(address: str) -> None:
    """Ordinary addresses, also next to closed ranges."""
    assert is_public(address)


@given(st.ip_addresses())
def test_no_address_is_more_open_than_python_thinks(address) -> None:  # type: ignore[no-untyped-def]  # the strategy's union
    """Whatever Python's own table calls private, multicast or reserved is closed here too."""
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert not is_public(str(address))
