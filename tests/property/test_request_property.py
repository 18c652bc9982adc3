"""The opening handshake: arbitrary bytes, any split of them, and agreement with the ``websockets`` library's server."""

from dataclasses import dataclass, replace

from hypothesis import event, example, given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request as OracleRequest
from websockets.server import ServerProtocol

from broker.native._request import parse, scan_end
from tests.unit.native.request_heads import AIOHTTP, CHROMIUM, FIREFOX, WEBSOCKETS, head

REFUSALS = {400, 405, 414, 426, 431, 505}
GOOD = b"dGhlIHNhbXBsZSBub25jZQ=="

# Pieces that matter to the parser, so that random bytes get past its first line.
fragments = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n"),
                *(b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: " + GOOD + b"\r\n", b"\r\n", b"\r", b"\n"),
                *(b"Sec-WebSocket-Protocol: a, b\r\n", b'Sec-WebSocket-Extensions: a; b="c"\r\n', b"Content-Length: "),
                *(b": ", b" ", b"\t", b",", b";", b"=", b'"', b"\\", b"%", b"[", b"]", b"?", b"#", b"\x00", b"\xff"),
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=14,
).map(b"".join)


@given(st.one_of(st.binary(max_size=200), fragments))
@example(b"")
@example(b"\r\n\r\n")
@example(b"G\r\n\r\n")
def test_no_bytes_raise_and_each_gets_a_verdict(data: bytes) -> None:
    for bytes_allowed in (16384, 64, 1, 0):
        request = parse(data, max_head_bytes=bytes_allowed, max_headers=4)
        assert request.status in REFUSALS | {101, 200}
        assert (request.problem is None) == (request.status in (101, 200))
        assert (request.accept is not None) == (request.status == 101)
        for name, value in request.headers():
            assert request.header(name) is not None
            assert value == value.strip(b" \t")


@given(
    st.one_of(fragments, st.sampled_from([CHROMIUM, FIREFOX, WEBSOCKETS, AIOHTTP, head() + b"\x81\x80abcd"])), st.data()
)
def test_the_end_is_the_same_however_the_bytes_arrive(data: bytes, draw: st.DataObject) -> None:
    limit = draw.draw(st.sampled_from([16384, 100, 20]))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=10)))
    scanned = 0
    for size in [*cuts, len(data)]:
        result, scanned = scan_end(data[:size], scanned, max_head_bytes=limit)
        if result:
            break
    assert result == scan_end(data, 0, max_head_bytes=limit)[0]


@dataclass(frozen=True)
class Handshake:
    """A generated request, whose parts say where the two implementations may differ."""

    line: bytes = b"GET /ws HTTP/1.1"
    host: tuple[bytes, ...] = (b"example.com",)
    connection: tuple[bytes, ...] = (b"Upgrade",)
    upgrade: tuple[bytes, ...] = (b"websocket",)
    key: tuple[bytes, ...] = (GOOD,)
    version: tuple[bytes, ...] = (b"13",)
    offer: tuple[bytes, ...] = ()
    extensions: tuple[bytes, ...] = ()
    other: tuple[bytes, ...] = ()

    def data(self) -> bytes:
        fields = [
            (b"Host", self.host),
            (b"Connection", self.connection),
            (b"Upgrade", self.upgrade),
            (b"Sec-WebSocket-Key", self.key),
            (b"Sec-WebSocket-Version", self.version),
            (b"Sec-WebSocket-Protocol", self.offer),
            (b"Sec-WebSocket-Extensions", self.extensions),
        ]
        lines = [name + b": " + value for name, values in fields for value in values]
        return b"\r\n".join([self.line, *lines, *self.other, b"", b""])

    def stricter_here(self) -> bool:
        """We refuse on purpose what the other implementation lets in."""
        tokens = [token.strip(b" \t") for line in self.offer for token in line.split(b",")]
        named = [token for token in tokens if token]
        return (
            self.host not in {(b"example.com",), (b"[::1]:80",)}  # it leaves Host to its caller
            or not self.line.startswith((b"GET /ws ", b"GET /?a=|b "))  # and the target
            or len(named) != len(set(named))  # RFC 6455 section 4.1: all unique
            or any(key != GOOD for key in self.key)  # bits behind the 16th byte
            or any(line.lower().startswith((b"content-length", b"origin")) for line in self.other)
        )

    def more_lenient_here(self) -> bool:
        """We let in, because the standards say so, what the other implementation refuses."""
        return (
            not all(self.offer)  # an empty header counts as absent
            or self.line.endswith(b"HTTP/1.2")  # RFC 9110 section 2.5
            or self.upgrade not in {(b"websocket",), (b"WebSocket",)}  # a list: RFC 6455 section 4.2.1 "containing"
            or not all(self.connection)  # an empty list beside another line is no element
            or not all(self.extensions)
        )


def lines(*values: tuple[bytes, ...]) -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.sampled_from([(), *values])


token = st.text("ab.|~", min_size=1, max_size=3).map(str.encode)
separator = st.sampled_from([b",", b", ", b" ,", b",,", b" , \t,", b" ", b";", b"/"])
token_list = st.builds(lambda tokens, between: between.join(tokens), st.lists(token, max_size=4), separator)
parameter = st.sampled_from(
    [b"", b"; p", b";p=1", b'; p="1"', b'; p="\\1"', b"; p = a", b"; p=", b'; p="', b";", b"; =", b'; p=" "']
)
extension_list = st.lists(st.builds(bytes.__add__, token, parameter), max_size=3).map(b", ".join)
BENDS: dict[str, st.SearchStrategy[object]] = {
    "line": st.sampled_from(
        [
            *(
                b"GET /?a=|b HTTP/1.1",
                b"POST /ws HTTP/1.1",
                b"GET /ws HTTP/1.0",
                b"GET /ws HTTP/1.2",
                b"GET ws HTTP/1.1",
            ),
            *(b"GET /ws HTTP/2.0", b"GET /a#b HTTP/1.1", b"GET  /ws HTTP/1.1", b"GET /ws", b"GET /\xe4 HTTP/1.1"),
        ]
    ),
    "host": lines((b"[::1]:80",), (b"a b",), (b"",), (b"example.com", b"example.com")),
    "connection": lines((b"a, upgrade",), (b"notupgrade",), (b"a b",), (b"close", b"UPGRADE"), (b"", b"Upgrade")),
    "upgrade": lines(
        (b"WebSocket",), (b"h2c, websocket",), (b"notwebsocket",), (b"web socket",), (b"h2c",), (b"a",) * 2
    ),
    "key": lines((GOOD[:-1],), (b"dGhlIHNhbXBsZSBub25jZR==",), (b"AAAA",), (b"",), (b"\xff",), (GOOD, GOOD)),
    "version": lines((b"8",), (b"013",), (b"13, 8",), (b"",), (b"13", b"13")),
    "offer": st.lists(token_list, max_size=3).map(tuple),
    "extensions": st.lists(extension_list, max_size=2).map(tuple),
    "other": st.lists(
        st.sampled_from(
            [
                *(b"Cookie: a=\xe4", b"X:", b"X: \tb ", b"x_y: 1", b"X : 1", b" folded", b"X", b": 1", b"X: \x00"),
                *(b"X: \x7f", b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
                *(b"Origin: http://a", b"Origin: a b"),
            ]
        ),
        max_size=2,
    ).map(tuple),
}


@st.composite
def handshakes(draw: st.DrawFn) -> Handshake:
    """A valid handshake with up to three of its parts bent."""
    bent = draw(st.lists(st.sampled_from(list(BENDS)), max_size=3, unique=True))
    return replace(Handshake(), **{name: draw(BENDS[name]) for name in bent})  # type: ignore[arg-type]


def oracle(data: bytes) -> tuple[int, bytes | None]:
    """Status and accept key of the ``websockets`` server; a head it drops the connection for counts as 400."""
    protocol = ServerProtocol(
        extensions=[ServerPerMessageDeflateFactory()],
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
    )
    protocol.receive_data(data)
    requests = [event for event in protocol.events_received() if isinstance(event, OracleRequest)]
    if not requests:
        return 400, None
    response = protocol.accept(requests[0])
    accept = response.headers.get("Sec-WebSocket-Accept")
    return response.status_code, accept.encode() if accept is not None else None


@given(handshakes())
def test_who_gets_in_agrees_with_the_websockets_library(handshake: Handshake) -> None:
    request = parse(handshake.data())
    status, accept = oracle(handshake.data())
    event(f"{request.status} here, {status} there")
    if request.status == status == 101:
        assert request.accept == accept
    elif request.status == 101:
        assert handshake.more_lenient_here()
    elif status == 101:
        assert handshake.stricter_here()
    elif status == 405:
        assert request.status in (400, 405)  # what is malformed besides comes first here
