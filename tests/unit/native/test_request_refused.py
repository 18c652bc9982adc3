"""The opening handshake: what is refused, with which status (RFC 6455 sections 4.2.1 and 9.1, RFC 9112)."""

import pytest

from broker.native._request import parse
from tests.unit.native.request_heads import KEY, head, plain, refused


@pytest.mark.parametrize("method", [b"POST", b"HEAD", b"OPTIONS", b"PUT", b"CONNECT", b"get", b"GETS", b"G"])
def test_another_method_is_405(method: bytes) -> None:
    refused(head(line=method + b" /ws HTTP/1.1"), 405)
    refused(plain(b"Host: a", b"Content-Length: 3", line=method + b" / HTTP/1.1") + b"a=b", 405)


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0"])
def test_another_http_version_is_505(version: bytes) -> None:
    refused(head(line=b"GET /ws " + version), 505)


def test_a_later_minor_version_is_read_as_1_1() -> None:
    assert parse(head(line=b"GET /ws HTTP/1.2")).status == 101


def test_the_http2_preface_is_a_clean_505() -> None:
    refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505)


def test_no_host_or_two_is_400() -> None:
    refused(head(host=None), 400)
    refused(head(b"Host: example.com"), 400)
    refused(head(b"hOST: other.example"), 400)
    refused(plain(), 400)


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"a b", b"a/b", b"user@a", b"a:b", b"a:123456", b"a:1:2", b":80", b"[::1", b"[]", b"[::g]", b"[::1]x"),
        *(b"a%2", b"a%zz", b"\xe4.example", b"<a>", b'"a"', b"a\\b", b"a?b", b"a#b", b"http://a"),
    ],
)
def test_a_host_that_is_no_host_is_400(host: bytes) -> None:
    refused(head(host=host), 400)


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET /ws", b"GET", b"GET  /ws HTTP/1.1", b"GET /ws  HTTP/1.1", b"GET /ws HTTP/1.1 ", b"GET /a b HTTP/1.1"),
        *(b"GET\t/ws HTTP/1.1", b"GET /ws http/1.1", b"GET /ws HTTP/11", b"GET /ws HTTP/1.10", b"GET /ws HTTP/a.1"),
        *(b"GET /\xe4 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"G(T / HTTP/1.1", b" GET / HTTP/1.1", b"GET  HTTP/1.1"),
        *(b"GET /a#b HTTP/1.1", b"GET ws HTTP/1.1", b"GET * HTTP/1.1", b"GET http://a/ HTTP/1.1", b"GET ?a HTTP/1.1"),
    ],
)
def test_a_request_line_that_can_be_read_in_two_ways_is_400(line: bytes) -> None:
    refused(head(line=line), 400)


@pytest.mark.parametrize(
    "data",
    [
        head(connection=b"notupgrade"),
        head(connection=b"keep-alive"),
        head(connection=None),
        head(upgrade=None),
        head(upgrade=b"notwebsocket"),
        head(upgrade=b"websocket/13"),
        head(upgrade=b"websockets"),
        head(upgrade=None, connection=b"close"),
    ],
)
def test_what_a_proxy_dropped_is_426_and_never_101(data: bytes) -> None:
    refused(data, 426)


@pytest.mark.parametrize("value", [b"up grade", b"Upgrade;x", b"a/b", b"Upgrade\xff", b'"Upgrade"'])
def test_a_malformed_connection_header_is_400(value: bytes) -> None:
    refused(head(connection=value), 400)


@pytest.mark.parametrize("value", [b"websocket/", b"web socket", b"websocket;q=1", b"a/b/c"])
def test_a_malformed_upgrade_header_is_400(value: bytes) -> None:
    refused(head(upgrade=value), 400)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"AAAAAAAAAAAAAAAAAAAA",  # 15 bytes
        b"AAAAAAAAAAAAAAAAAAAAAAA=",  # 17 bytes
        b"AAAAAAAAAAAAAAAAAAAAAA",  # no padding
        b"dGhlIHNhbXBsZSBub25jZR==",  # bits set behind the 16th byte
        b"dGhlIHNhbXBsZSBub25j-_==",
        b"dGhlIHNhbXBsZSBub25jZ\xff==",
        b"dGhlIHNh bXBsZSBub25jZQ==",
        KEY + b", " + KEY,
        KEY + b"=",
    ],
)
def test_a_key_that_is_not_16_bytes_is_400(key: bytes) -> None:
    refused(head(sec_websocket_key=key), 400)


def test_no_key_or_two_is_400() -> None:
    refused(head(sec_websocket_key=None), 400)
    refused(head(b"Sec-WebSocket-Key: " + KEY), 400)


@pytest.mark.parametrize("version", [b"0", b"8", b"12", b"14", b"25", b"255"])
def test_another_websocket_version_is_426(version: bytes) -> None:
    refused(head(sec_websocket_version=version), 426)


@pytest.mark.parametrize("version", [b"", b"013", b"256", b"1300", b"-13", b"+13", b"13, 13", b"13.0", b"x", b"\xb213"])
def test_a_version_that_is_no_number_is_400(version: bytes) -> None:
    refused(head(sec_websocket_version=version), 400)


def test_no_version_or_two_is_400() -> None:
    refused(head(sec_websocket_version=None), 400)
    refused(head(b"Sec-WebSocket-Version: 13"), 400)
    refused(head(b"Sec-WebSocket-Version: 8"), 400)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b",", b";", b"a;", b"a;;b", b"a; b=", b"a; =1", b'a; b="', b'a; b=""', b'a; b="1', b'a; b="\\"', b"a b"),
        *(
            b"a; b c",
            b'a; b="x y"',
            b'a; b="1"2',
            b"a=1",
            b"a; b=1=2",
            b"\xe4",
            b"a; \xff",
            b'a; b="\xff"',
            b"a/b",
            b'"a"',
        ),
    ],
)
def test_a_malformed_extension_is_400(value: bytes) -> None:
    refused(head(b"Sec-WebSocket-Extensions: " + value), 400)


def test_one_malformed_extension_line_among_good_ones_is_400() -> None:
    good = b"Sec-WebSocket-Extensions: permessage-deflate"
    assert parse(head(good, good)).status == 101
    refused(head(good, b"Sec-WebSocket-Extensions: a;", good), 400)


@pytest.mark.parametrize("character", sorted(set(range(0x20, 0x100)) - set(range(0x30, 0x3A)) - set(b",")))
def test_every_character_that_is_no_token_character_is_400(character: int) -> None:
    tokens = b"!#$%&'*+-.^_`|~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    request = parse(head(b"Sec-WebSocket-Protocol: a" + bytes([character]) + b"b"))
    assert request.status == (101 if character in tokens else 400)


@pytest.mark.parametrize(
    "offer", [(b"a, a",), (b"a", b"a"), (b"a,b", b"c,a"), (b",",), (b", ,",), (b"a b",), (b"a", b",b;")]
)
def test_an_offer_that_repeats_or_is_malformed_is_400(offer: tuple[bytes, ...]) -> None:
    refused(head(*(b"Sec-WebSocket-Protocol: " + line for line in offer)), 400)


@pytest.mark.parametrize(
    "name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Key", b"Host", b"X"]
)
@pytest.mark.parametrize("byte", [0x00, 0x01, 0x0A, 0x0D, 0x1B, 0x7F])
def test_a_control_byte_in_any_header_is_400(name: bytes, byte: int) -> None:
    refused(head(name + b": a" + bytes([byte]) + b"b"), 400)


@pytest.mark.parametrize(
    "line",
    [b" folded", b"\tfolded", b"X : 1", b"X\t: 1", b": 1", b"X", b"X Y: 1", b"X(: 1", b"\xe4: 1", b'"X": 1', b"X:\x00"],
)
def test_smuggling_a_header_line_that_is_folded_or_has_no_name_is_400(line: bytes) -> None:
    refused(head(line), 400)
    refused(plain(b"Host: a", line), 400)


@pytest.mark.parametrize(
    "data", [head().replace(b"\r\n", b"\n"), head(b"X: a\nY: b"), head(b"X: a\rY: b"), head() + b""]
)
def test_smuggling_a_bare_line_end_is_400(data: bytes) -> None:
    if data == head():
        data = data[:-2] + b"\n"
    refused(data, 400)


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 1",),
        (b"Content-Length: 0", b"Content-Length: 0"),
        (b"Content-Length: 0", b"Content-Length: 5"),
        (b"Content-Length: +5",),
        (b"Content-Length: 0x5",),
        (b"Content-Length: 0, 0",),
        (b"Content-Length:",),
        (b"Transfer-Encoding: chunked",),
        (b"Transfer-Encoding:",),
        (b"Transfer-Encoding: chunked", b"Content-Length: 0"),
        (b"transfer-encoding: xchunked", b"content-length: 5"),
    ],
)
def test_smuggling_content_on_a_get_is_400(fields: tuple[bytes, ...]) -> None:
    refused(head(*fields), 400)
    refused(plain(b"Host: a", *fields), 400)


@pytest.mark.parametrize("length", [b"+5", b"0x5", b"5, 5", b"-1", b""])
def test_smuggling_a_post_whose_length_is_ambiguous_is_400(length: bytes) -> None:
    refused(plain(b"Host: a", b"Content-Length: " + length, line=b"POST / HTTP/1.1"), 400)
    refused(plain(b"Host: a", b"Content-Length: 5", b"Content-Length: 6", line=b"POST / HTTP/1.1"), 400)
    refused(plain(b"Host: a", b"Content-Length: 5", b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1"), 400)


@pytest.mark.parametrize("origin", [(b"",), (b"http://a http://b",), (b"http://\xe4",), (b"http://a", b"http://a")])
def test_an_origin_that_is_no_single_origin_is_400(origin: tuple[bytes, ...]) -> None:
    refused(head(*(b"Origin: " + value for value in origin)), 400)


def test_the_refusal_never_repeats_what_the_client_sent() -> None:
    for data in (head(sec_websocket_key=b"SECRET"), head(host=b"SECRET SECRET"), head(b"SECRET"), b"SECRET\n"):
        assert "SECRET" not in str(parse(data).problem)
