"""The opening handshake: who is let in, with what the gateway learns of the request."""

import pytest

from broker.native._request import parse, scan_end
from tests.unit.native.request_heads import ACCEPT, AIOHTTP, CHROMIUM, FIREFOX, KEY, WEBSOCKETS, head, plain, refused


def test_the_accept_key_is_the_one_of_the_rfc() -> None:
    request = parse(head())
    assert (request.status, request.problem, request.accept) == (101, None, ACCEPT)
    assert (request.path, request.query, request.host) == (b"/ws", b"", b"example.com")
    assert request.origin is None
    assert request.offer is None


@pytest.mark.parametrize(
    ("data", "path", "host", "origin", "offer"),
    [
        (CHROMIUM, b"/ws", b"localhost:8000", b"http://localhost:8000", b"news, room.42|since.8f3a.1042"),
        (FIREFOX, b"/", b"[::1]:8000", b"http://[::1]:8000", b"news"),
        (WEBSOCKETS, b"/", b"127.0.0.1:8000", None, None),
        (AIOHTTP, b"/", b"127.0.0.1:8000", None, None),
    ],
    ids=["chromium", "firefox", "websockets", "aiohttp"],
)
def test_real_clients_get_in(data: bytes, path: bytes, host: bytes, origin: bytes | None, offer: bytes | None) -> None:
    request = parse(data)
    assert (request.status, request.accept, request.head) == (101, ACCEPT, data)
    assert (request.path, request.host, request.origin, request.offer) == (path, host, origin, offer)


def test_a_query_reaches_the_gateway_as_it_was_sent() -> None:
    assert parse(CHROMIUM).query == b"format=json&channel=room.42|recv"
    assert parse(plain(b"Host: a", line=b"GET /?a?b=%2f HTTP/1.1")).query == b"a?b=%2f"


@pytest.mark.parametrize(
    "data",
    [
        plain(b"Host: localhost:8000", b"User-Agent: curl/8.14.1", b"Accept: */*"),
        plain(b"Host: localhost", b"Connection: keep-alive"),
        plain(b"Host: localhost", b"Content-Length: 0"),
        # curl --http2: an upgrade to something else may be ignored (RFC 9110 section 7.8)
        plain(b"Host: a", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    ],
    ids=["curl", "keep-alive", "empty-content", "h2c"],
)
def test_a_plain_get_gets_a_page(data: bytes) -> None:
    request = parse(data)
    assert (request.status, request.problem, request.path, request.accept) == (200, None, b"/", None)


@pytest.mark.parametrize(
    "data",
    [
        head(connection=b"keep-alive, Upgrade"),
        head(connection=b"UPGRADE"),
        head(connection=b",, keep-alive ,\tupgrade ,"),
        head(b"Connection: upgrade", connection=b"keep-alive"),
        head(b"connection: keep-alive"),
        head(upgrade=b"WebSocket"),
        head(upgrade=b"h2c, websocket"),
        head(b"Upgrade: websocket", upgrade=b"h2c/1"),
    ],
)
def test_upgrade_and_connection_are_lists_in_any_case_over_any_lines(data: bytes) -> None:
    assert parse(data).status == 101


def test_white_space_around_values_is_no_part_of_them() -> None:
    request = parse(
        head(b"Origin:\t https://a.example \t", host=b"  a.example  ", sec_websocket_key=b" " + KEY + b"\t")
    )
    assert (request.status, request.host, request.origin) == (101, b"a.example", b"https://a.example")


def test_bytes_after_the_head_are_frames_and_left_alone() -> None:
    data = head() + b"\x81\x80\x00\x00\x00\x00"
    assert scan_end(data, 0)[0] == len(head())
    assert parse(data).head == head()


@pytest.mark.parametrize(
    "offer",
    [
        (b"a, b",),
        (b"a,b",),
        (b"a \t,\tb",),
        (b"a,, ,b,",),
        (b"a", b"b"),
        (b"a", b"", b"b"),
        (b"", b"a,b"),
    ],
)
def test_an_offer_may_span_lines_and_keeps_its_order(offer: tuple[bytes, ...]) -> None:
    request = parse(head(*(b"Sec-WebSocket-Protocol: " + line for line in offer)))
    assert (request.status, request.offer) == (101, b"a, b")


def test_an_empty_offer_counts_as_none() -> None:
    for value in (b"", b"  ", b"\t"):
        request = parse(head(b"Sec-WebSocket-Protocol:" + value))
        assert (request.status, request.offer) == (101, None)


def test_case_of_an_offered_token_is_kept_and_tells_tokens_apart() -> None:
    assert parse(head(b"sec-websocket-protocol: News, news")).offer == b"News, news"


@pytest.mark.parametrize(
    "value",
    [
        b"permessage-deflate",
        b"permessage-deflate; client_max_window_bits",
        b'permessage-deflate ; server_max_window_bits = "10"',
        b'x; y="\\1\\0", constructor;__class__=1',
        b"constructor, __class__, __proto__",
        b"a,, ,b",
        b"x" + b"; p" * 4000,
    ],
)
def test_an_extension_nobody_knows_is_ignored(value: bytes) -> None:
    assert parse(head(b"Sec-WebSocket-Extensions: " + value)).status == 101


@pytest.mark.parametrize(
    "host",
    [b"a", b"a.example:443", b"127.0.0.1:80", b"[::1]", b"[fe80::1]:65535", b"a_b.example", b"a%20b", b"xn--a:"],
)
def test_a_host_in_any_valid_form_gets_in(host: bytes) -> None:
    request = parse(head(host=host))
    assert (request.status, request.host) == (101, host)


def test_headers_reach_cookies_and_credentials_as_bytes() -> None:
    request = parse(head(b"Cookie: a=\xe4", b"AUTHORIZATION:\tBearer x ", b"cookie:b=2", b"Empty:"))
    assert request.headers()[-4:] == (
        (b"cookie", b"a=\xe4"),
        (b"authorization", b"Bearer x"),
        (b"cookie", b"b=2"),
        (b"empty", b""),
    )
    assert request.header(b"Cookie") == b"a=\xe4, b=2"
    assert request.header(b"empty") == b""
    assert request.header(b"absent") is None


def test_a_refused_request_can_still_be_asked_for_its_headers() -> None:
    assert parse(head(b"X: 1", sec_websocket_version=b"8")).header(b"x") == b"1"
    assert parse(head(b"broken line")).headers() == ()
    assert parse(b"").headers() == ()
    assert parse(b"").head == b""


def test_an_incomplete_head_is_no_request() -> None:
    for size in range(len(CHROMIUM)):
        assert scan_end(CHROMIUM[:size], 0)[0] == 0
    refused(CHROMIUM[:-1], 400)
