"""A reactor without an event loop: the test makes every turn, is every callback, and can say what came before what.

For what a worker in a loop would hide: how much one turn does, and verbs that are called from inside of callbacks.
`turning` gives a Turning and settles the accounts when the test is over. Peers are sockets that never block.
"""

import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from broker.config.schema import Limits
from broker.gateway.refusals import native_closes
from broker.native import _counters
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.native._request import Request
from tests.integration.harness import GONE_WITH_CONNECTIONS, PATIENCE_SECONDS, request
from tests.server_frames import frames

DISCONNECT = 0  # QueuePolicy of _queue.pxd
ANY_PAYLOAD = 0
RAW = 0
TEXT_KIND = 1
REQUEST = request()
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
# Tests of turns send more than any page does.
UNBOUND = {"messages_per_second": 0, "bytes_per_second": 0}
TOO_SLOW = (4208).to_bytes(2) + b"told by the test"


class Peer:
    """A client's end. `received` is what it has read and nobody has looked at."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect(address)
        self.sock.setblocking(False)
        self.conn = 0
        self.received = bytearray()
        self.ended = False
        self.was_reset = False

    def send(self, data: bytes) -> None:
        """All of it: the test sends no more than socket buffers hold."""
        assert self.sock.send(data) == len(data)

    def read(self) -> bytes:
        """Takes whatever has arrived; returns all that has not been looked at."""
        try:
            while not self.ended and (data := self.sock.recv(1 << 20)):
                self.received += data
            self.ended = True
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = self.was_reset = True
        return bytes(self.received)

    def head(self) -> bytes:
        """The head of the HTTP response that has arrived; what follows it stays."""
        head, end, rest = self.read().partition(b"\r\n\r\n")
        assert end, f"no HTTP answer: {head[:200]!r}"
        self.received[:] = rest
        return head

    def frames(self) -> list[tuple[int, bytes]]:
        """Every frame that has arrived; the last one has to be whole."""
        found = frames(self.read())
        self.received.clear()
        return found

    def half_close(self) -> None:
        with suppress(OSError):  # it was reset meanwhile
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Turning:
    """A reactor, its hub and its handler. Whoever asks properly is let in; a test says what is to happen instead."""

    def __init__(self, **limits: float) -> None:
        settings = Limits(**{"max_connections": 1000, "ping_jitter": 0.0, **UNBOUND, **limits})  # type: ignore[arg-type]
        self.limits = settings
        self.table = bytearray(8 * _counters.SIZE)
        self.hub = Hub(self.table, settings.send_queue_bytes, settings.send_queue_messages, settings.memory_bytes)
        self.turns_asked: list[Callable[[], None]] = []
        self.reactor = Reactor(
            self.hub, self, native_closes(), self.turns_asked.append, **msgspec.structs.asdict(settings)
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.reactor.listen(self.listener.fileno(), settings.notsent_lowat_bytes)
        self.peers: list[Peer] = []
        self.requests: list[int] = []
        self.messages: list[bytes] = []
        self.errors: list[BaseException] = []
        self.ends: list[tuple[object, int]] = []
        self.when_requested: Callable[[int, Request], object] = self.let_in
        self.when_message: Callable[[int, bytes], bool] = lambda conn, payload: False
        self.when_too_slow: Callable[[int], bytes] = lambda conn: TOO_SLOW
        self.when_unpublished: Callable[[int], object] = lambda conn: None
        self.left: list[str] = []
        self.when_proxied: Callable[[int, str | None, str | None], bool] = lambda conn, peer, client: True
        self.when_ended: Callable[[int], object] = lambda conn: None

    # The reactor's handler.

    def on_request(self, conn: int, request: Request) -> None:
        self.requests.append(conn)
        self.when_requested(conn, request)

    def on_unpublished(self, conn: int, session: object) -> None:
        self.when_unpublished(conn)

    def on_malformed(self, conn: int, status: int, head_only: bool) -> None:
        self.reactor.respond(conn, BAD_REQUEST, 4)

    def on_message(self, conn: int, session: object, payload: bytes, text: bool) -> bool:
        self.messages.append(payload)
        return self.when_message(conn, payload)

    def on_bad_payload(self, conn: int, session: object, word: str, offset: int) -> None:
        raise AssertionError(f"no channel here restricts payloads: {word}")

    def on_too_slow(self, conn: int, session: object) -> bytes:
        return self.when_too_slow(conn)

    def on_closed(self, conn: int, session: object, cause: int) -> None:
        self.ends.append((session, cause))
        self.when_ended(conn)

    def on_error(self, error: BaseException) -> None:
        self.errors.append(error)

    def on_proxied(self, conn: int, peer: str | None, client: str | None) -> bool:
        return self.when_proxied(conn, peer, client)

    def on_left(self, address: str) -> None:
        self.left.append(address)

    def let_in(self, conn: int, request: Request) -> bool:
        return self.reactor.open(conn, accept(request), None, RAW, ("session", conn))

    # The test's side.

    def counter(self, name: str) -> int:
        with memoryview(self.table) as table:
            return table.cast("Q")[_counters.NAMES.index(name)]

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.reactor.turn()

    def turn_until(self, predicate: Callable[[], object], what: str = "") -> int:
        """Makes turns until `predicate` holds; returns how many that took."""
        count = 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not predicate():
            assert time.monotonic() < deadline, f"not in {count} turns: {what or predicate}"
            self.reactor.turn()
            count += 1
        return count

    def connect(self, data: bytes = b"", receive_buffer: int | None = None) -> Peer:
        peer = Peer(self.listener.getsockname(), receive_buffer)
        self.peers.append(peer)
        peer.send(data)
        return peer

    def open(self, receive_buffer: int | None = None) -> Peer:
        """A peer that has read its 101; `conn` is its connection's id."""
        known = len(self.requests)
        peer = self.connect(REQUEST, receive_buffer)
        self.turn_until(lambda: b"\r\n\r\n" in peer.read(), "a 101")
        assert peer.head().startswith(b"HTTP/1.1 101 ")
        peer.conn = self.requests[known]
        return peer

    def join(self, peers: list[Peer], name: bytes, *, receives: bool = True, sends: bool = False) -> None:
        for peer in peers:
            assert self.reactor.subscribe(peer.conn, name, DISCONNECT, ANY_PAYLOAD, receives, sends)

    def subscribers(self, count: int, name: bytes) -> list[Peer]:
        peers = [self.open() for _ in range(count)]
        self.join(peers, name)
        return peers

    def publishers(self, count: int, name: bytes) -> list[Peer]:
        """They publish each message without any callback."""
        peers = [self.open() for _ in range(count)]
        self.join(peers, name, receives=False, sends=True)
        return peers

    def end_everybody(self) -> None:
        """Peers leave, deadlines pass, waiting commands go on: whatever is still there afterwards has leaked."""
        for peer in self.peers:
            peer.close()
        self.when_message = lambda conn, payload: False
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.reactor.connections or not self.reactor.settled:
            assert time.monotonic() < deadline, [self.reactor.state(conn) for conn in self.requests]
            for conn in self.requests:
                self.reactor.resume(conn)
            self.turns(4)
            self.reactor.advance(max(self.limits.ping_seconds, self.limits.handshake_seconds))

    def check(self) -> None:
        """The ledger balances, sessions end once, and nothing is left of anybody."""
        assert {name: self.counter(name) for name in GONE_WITH_CONNECTIONS if self.counter(name)} == {}
        given_up = [self.counter(f"n_dropped_{policy}") for policy in ("oldest", "newest", "latest")]
        given_up.append(self.counter("n_put_off"))
        assert self.counter("n_offered") == self.counter("n_written") + sum(given_up) + self.counter("n_discarded")
        closed = sum(self.counter(name) for name in _counters.NAMES if name.startswith("n_closed_"))
        assert closed == self.counter("n_accepted"), "each connection ends for one cause"
        assert len(self.ends) == len(set(self.ends)) == self.counter("n_opened"), "each session ends once"

    def destroy(self) -> None:
        for peer in self.peers:
            peer.close()
        self.reactor.destroy()
        self.listener.close()


def ready(file: socket.socket | Reactor, event: int = select.POLLIN) -> bool:
    """Whether reading from it, or writing, would not wait."""
    poll = select.poll()
    poll.register(file.fileno(), event)
    return bool(poll.poll(0))


def accept(request: Request) -> bytes:
    assert request.accept is not None
    return request.accept


@contextmanager
def turning(**limits: float) -> Iterator[Turning]:
    """A Turning with these limits (limits.* of the configuration)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # both ends of every connection are here
    world = Turning(**limits)
    try:
        yield world
        world.end_everybody()
        world.check()
    finally:
        world.destroy()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert world.counter("g_frames") == 0
    assert world.hub.memory == 0
