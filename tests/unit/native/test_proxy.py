"""The PROXY protocol, version 2: whose connection it is, and what is no header."""

import pytest

from broker.native._proxy import parse
from tests.unit.native.proxy_headers import LOCAL, SIGNATURE, header, proxied

TLV = b"\x04\x00\x05hello"


@pytest.mark.parametrize("client", ["203.0.113.7", "2001:db8::7"])
@pytest.mark.parametrize("tlvs", [b"", TLV, TLV * 50])
@pytest.mark.parametrize("after", [b"", b"GET /ws HTTP/1.1\r\n"])
def test_the_client_behind_a_proxy_is_known(client: str, tlvs: bytes, after: bytes) -> None:
    whole = proxied(client, tlvs)
    assert parse(whole + after) == (len(whole), client)


@pytest.mark.parametrize(
    "whole",
    [
        LOCAL,
        LOCAL[:13] + b"\x11\x00\x00",
        header(0x99, command=0x20),
        header(0),
        header(0, tlvs=TLV),
        header(0x31, b"u" * 216),
    ],
)
def test_a_proxy_that_speaks_for_itself_is_let_in_as_itself(whole: bytes) -> None:
    assert parse(whole) == (len(whole), None)


def test_a_header_split_at_any_byte_is_the_same_header() -> None:
    for whole in (proxied("203.0.113.7", TLV), proxied("2001:db8::7"), LOCAL):
        assert [parse(whole[:size])[0] for size in range(len(whole) + 1)] == [0] * len(whole) + [len(whole)]


NONE = {
    "the text form of version 1": b"PROXY TCP4 203.0.113.7 127.0.0.1 51234 8000\r\n",
    "a request": b"GET /ws HTTP/1.1\r\n\r\n",
    "another signature": SIGNATURE[:-1] + b"X" + header()[12:],
    "version 1 in binary": header(0x11, b"a" * 12, command=0x11),
    "version 3": header(0x11, b"a" * 12, command=0x31),
    "an unknown command": header(0x11, b"a" * 12, command=0x22),
    "datagrams": header(0x12, b"a" * 12),
    "an unknown family": header(0x41, b"a" * 12),
    "addresses that are too short": header(0x11, b"a" * 11),
    "IPv6 addresses that are too short": header(0x21, b"a" * 35),
    "a Unix address that is too short": header(0x31, b"a" * 215),
    "a length beyond the bound": header(0x11, b"a" * 12, b"t" * 4069),
    "the longest length there is": SIGNATURE + b"\x21\x11\xff\xff",
}


@pytest.mark.parametrize("why", NONE)
def test_what_is_no_header_is_refused_however_it_arrives(why: str) -> None:
    data = NONE[why]
    ends = [parse(data[:size])[0] for size in range(len(data) + 1)]
    first = ends.index(-1)
    assert set(ends[:first]) <= {0}
    assert set(ends[first:]) == {-1}
    assert first <= 16, "known by the fixed part"


def test_the_longest_header_that_is_taken() -> None:
    whole = header(0x11, b"a" * 12, b"t" * 4068)
    assert len(whole) == 4096
    assert parse(whole) == (4096, "97.97.97.97")
