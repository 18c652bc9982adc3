"""Whose connection it is: only trusted proxies say so, and nothing a client writes counts for more than itself."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.addresses import Addresses, address_key, read_forwarded, read_node

PROXIES = ("10.0.0.0/8", "fd00::/8")


def client(source: str, *values: str, peer: str = "10.0.0.1") -> str:
    name = b"forwarded" if source == "forwarded" else b"x-forwarded-for"
    headers = [(b"host", b"a"), *((name, value.encode("latin-1")) for value in values)]
    return Addresses(PROXIES, source).client(peer, headers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("for=203.0.113.1", "203.0.113.1"),
        ("For=203.0.113.1;Proto=https;by=203.0.113.43", "203.0.113.1"),
        ('for="203.0.113.1:4711"', "203.0.113.1"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="[2001:DB8:0::17]"', "2001:db8::17"),
        ("for=198.51.100.1, for=203.0.113.1", "203.0.113.1"),
        ("for=203.0.113.1, for=10.1.1.1 , for=10.2.2.2", "203.0.113.1"),
        ('for=203.0.113.1;host="a, for=198.51.100.1"', "203.0.113.1"),
        ("for=10.1.1.1", "10.1.1.1"),
        (", for=203.0.113.1,,", "203.0.113.1"),
        # Nobody says, or nothing that is an address: the last one that is known.
        ("for=unknown", "10.0.0.1"),
        ("for=_hidden", "10.0.0.1"),
        ("for=203.0.113.1, for=unknown", "10.0.0.1"),
        ("for=203.0.113.1, for=unknown, for=10.2.2.2", "10.2.2.2"),
        ("for=203.0.113.1, proto=http", "10.0.0.1"),
        ("for=[2001:db8::1]", "10.0.0.1"),
        ("for=2001:db8::1", "10.0.0.1"),
        ("for=203.0.113.1;for=198.51.100.1", "10.0.0.1"),
        ('for="203.0.113.1', "10.0.0.1"),
        ("for = 203.0.113.1", "10.0.0.1"),
        ("for=203.0.113.1 proto=http", "10.0.0.1"),
        ("for=999.0.0.1", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_what_forwarded_says(value: str, address: str) -> None:
    assert client("forwarded", value) == address


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (("203.0.113.1",), "203.0.113.1"),
        (("198.51.100.1, 203.0.113.1",), "203.0.113.1"),
        (("198.51.100.1", "203.0.113.1"), "203.0.113.1"),
        (("203.0.113.1, 10.1.1.1", "10.2.2.2"), "203.0.113.1"),
        (("203.0.113.1:4711",), "203.0.113.1"),
        (("2001:db8::1",), "2001:db8::1"),
        (("[2001:db8::1]:4711",), "2001:db8::1"),
        (("203.0.113.1, nonsense",), "10.0.0.1"),
        (("203.0.113.1, nonsense, 10.2.2.2",), "10.2.2.2"),
        (("",), "10.0.0.1"),
        ((), "10.0.0.1"),
    ],
)
def test_what_x_forwarded_for_says(values: tuple[str, ...], address: str) -> None:
    assert client("x-forwarded-for", *values) == address


@pytest.mark.parametrize("source", ["forwarded", "x-forwarded-for"])
def test_a_client_that_is_no_proxy_is_not_believed(source: str) -> None:
    assert client(source, "for=198.51.100.1", "198.51.100.1", peer="203.0.113.1") == "203.0.113.1"


def test_without_a_header_the_peer_is_the_client() -> None:
    assert client("peer", "for=203.0.113.1") == "10.0.0.1"


@pytest.mark.parametrize("peer", ["::ffff:10.0.0.1", "fd00::1", "fd00::1%eth0"])
def test_a_proxy_is_known_in_every_spelling(peer: str) -> None:
    assert client("forwarded", "for=203.0.113.1", peer=peer) == "203.0.113.1"


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no: address", "no: address"),
    ],
)
def test_an_ipv6_customer_is_one_address_whatever_the_last_64_bits(address: str, key: str) -> None:
    assert address_key(address) == key


@given(st.text())
def test_no_header_raises_or_becomes_anything_but_an_address(text: str) -> None:
    read_forwarded(text)
    for bare in (True, False):
        node = read_node(text, bare=bare)
        assert node is None or ipaddress.ip_address(node)


@given(st.text(st.characters(max_codepoint=255)), st.ip_addresses(v=4))
def test_a_client_that_writes_the_header_first_changes_nothing_but_its_own_lot(
    before: str, address: ipaddress.IPv4Address
) -> None:
    found = client("forwarded", before, f"for={address}", peer="10.0.0.1")
    assert found in (str(address), "10.0.0.1") or str(address).startswith("10.")
