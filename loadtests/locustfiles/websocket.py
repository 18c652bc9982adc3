"""One WebSocket of a load test, for thousands in a process: a gevent socket and the sans-IO half of `websockets`.

Measured on one core, for each delivery of 120 bytes with its wake-up: websocket-client 72 us (it reads a header at a
time), wsproto 27 us, `websockets` 18 us, of which 10 us are the switch and the two `recv`. All take 11 KB a socket
with its greenlet. It blocks the greenlet that calls it and nobody else. Time is told in seconds of
`time.perf_counter`.
"""

import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import gevent.socket
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

RECEIVE_BYTES = 65_536
OPEN_SECONDS = 30.0
_RESET = struct.pack("ii", 1, 0)
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


_resolved: dict[tuple[str, int], tuple[int, Any]] = {}


def _resolve(host: str, port: int) -> tuple[int, Any]:
    """Once for a process. gevent asks a pool of ten threads, even about 127.0.0.1: that was 20 ms of each connect, and
    seconds on a busy machine.
    """
    if (host, port) not in _resolved:
        family, _, _, _, address = gevent.socket.getaddrinfo(host, port, type=gevent.socket.SOCK_STREAM)[0]
        _resolved[host, port] = family, address
    return _resolved[host, port]


class Refused(Exception):
    """The handshake was answered, and not with 101."""


class Ended(Exception):
    """The connection is over. `code` is that of the broker's Close, 1006 without one."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    @property
    def word(self) -> str:
        """`code=too_slow;...` in the reason: docs/protocol.md section 4."""
        word = self.reason.partition(";")[0]
        return word.removeprefix("code=") if word.startswith("code=") else ""


class WebSocket:
    """`url` as ws://HOST:PORT/PATH. `receive_buffer` bounds what the kernel holds for a reader that stops."""

    def __init__(self, url: str, offer: Sequence[str], receive_buffer: int | None = None) -> None:
        self._uri = parse_uri(url)
        self._protocol = ClientProtocol(self._uri, subprotocols=[Subprotocol(token) for token in offer], max_size=None)
        self._receive_buffer = receive_buffer
        self._socket: gevent.socket.socket | None = None
        self._early: list[str] = []
        self._parts: list[bytes] = []
        self.connect_seconds = 0.0
        self.handshake_seconds = 0.0

    def open(self) -> None:
        """Raises OSError, or Refused. What came right behind the answer is kept for `receive`."""
        family, address = _resolve(self._uri.host, self._uri.port)
        started = time.perf_counter()
        self._socket = sock = gevent.socket.socket(family, gevent.socket.SOCK_STREAM)
        if self._receive_buffer is not None:  # before connecting: afterwards the window has been announced
            sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_RCVBUF, self._receive_buffer)
        sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
        sock.settimeout(OPEN_SECONDS)
        sock.connect(address)
        connected = time.perf_counter()
        self.connect_seconds = connected - started
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            self._take(sock.recv(RECEIVE_BYTES))
        self.handshake_seconds = time.perf_counter() - connected
        if self._protocol.handshake_exc is not None:
            raise Refused(str(self._protocol.handshake_exc))

    def receive(self, seconds: float | None = None) -> list[str]:
        """Messages that came, at least one; none if `seconds` passed. Raises Ended."""
        if self._early:
            early, self._early = self._early, []
            return early
        assert self._socket is not None, "open it first"
        self._socket.settimeout(seconds)
        while not self._early:
            if self._protocol.state is not State.OPEN:
                raise self._end()
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                return []
            except OSError as error:
                raise Ended(1006, str(error)) from None
            self._take(data)
        early, self._early = self._early, []
        return early

    def send(self, text: str) -> None:
        """Raises Ended."""
        if self._protocol.state is not State.OPEN:
            raise self._end()
        self._protocol.send_text(text.encode())
        self._flush()

    def close(self) -> None:
        """Says Close and goes, as a browser does whose page is left; does nothing more after `cut`."""
        if self._socket is None:
            return
        if self._protocol.state is State.OPEN:
            with suppress(Ended):
                self._protocol.send_close(1000)
                self._flush()
        self._socket.close()

    def cut(self) -> None:
        """Goes without a word, by a reset; whoever waits in `receive` gets Ended."""
        if self._socket is not None:
            self._socket.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, _RESET)
            self._socket.close()

    def _end(self) -> Ended:
        close = self._protocol.close_rcvd  # its close_code is known only when the TCP connection has ended, too
        return Ended(close.code, close.reason) if close is not None else Ended(1006, "")

    def _take(self, data: bytes) -> None:
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            else:
                assert isinstance(event, Response)
        self._flush()

    def _frame(self, frame: Frame) -> None:
        if frame.opcode not in _DATA:
            return  # a Ping has its answer waiting in the protocol; a Close shows in its state
        self._parts.append(bytes(frame.data))
        if frame.fin:
            self._early.append(b"".join(self._parts).decode())
            self._parts.clear()

    def _flush(self) -> None:
        assert self._socket is not None
        for data in self._protocol.data_to_send():
            if data:  # b"" asks for a half-close; it is closed soon
                try:
                    self._socket.sendall(data)
                except OSError as error:
                    raise Ended(1006, str(error)) from None
