"""The client's side of the wire, without a parser: requests, frames of known size, and opening many sockets at once.

A scenario only sends messages whose frames all have one size, so a reader counts bytes. Frames to the broker are masked
with the key 0, which RFC 6455 allows and which leaves the payload as it is: the broker unmasks all the same, the load
saves the work.
"""

import select
import socket
import time
from collections.abc import Iterable, Iterator
from itertools import islice

# The time a message was due, in hexadecimal nanoseconds of the monotonic clock, begins its payload.
MARKER_BYTES = 16
HEAD_END = b"\r\n\r\n"
OPEN_SECONDS = 60.0
NORMAL_CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
# Linux gives a connection's port when it connects, not when it is bound: the same port serves several destinations.
IP_BIND_ADDRESS_NO_PORT = 24

Address = tuple[str, int]


def upgrade(address: Address, offer: str, path: str = "/ws") -> bytes:
    """The opening handshake of one client. No Origin: it is no browser."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {offer}\r\n\r\n"
    ).encode()


def _length(size: int) -> bytes:
    if size < 126:
        return bytes((size,))
    return b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)


def client_frame(payload: bytes) -> bytes:
    """A text message to the broker."""
    length = _length(len(payload))
    return b"\x81" + bytes((length[0] | 0x80,)) + length[1:] + b"\0\0\0\0" + payload


def server_frame(payload: bytes) -> bytes:
    """The same message as a raw subscriber gets it."""
    return b"\x81" + _length(len(payload)) + payload


def marked(due_ns: int, size: int) -> bytes:
    """A payload of `size` bytes that says when it was due."""
    return b"%016x" % due_ns + b"." * (size - MARKER_BYTES)


def close_code(tail: bytes | bytearray) -> int | None:
    """The code of the Close frame at the end of what a connection received, if there is one."""
    at = tail.rfind(b"\x88")
    if at < 0 or at + 4 > len(tail) or at + 2 + tail[at + 1] != len(tail):
        return None
    return int.from_bytes(tail[at + 2 : at + 4])


class Arrivals:
    """Takes apart what one raw subscriber receives: frames of one size, each payload with a marker."""

    def __init__(self, payload_bytes: int) -> None:
        self._header_bytes = 1 + len(_length(payload_bytes))
        self._frame_bytes = self._header_bytes + payload_bytes
        self._left = b""
        self.ended: str | None = None

    def receive_data(self, data: bytes) -> list[int]:
        """When each message that is now complete was due. What is no such message ends it: see `ended`."""
        due = []
        data = self._left + data
        at = 0
        while len(data) - at >= self._frame_bytes and data[at] == 0x81:
            due.append(int(data[at + self._header_bytes : at + self._header_bytes + MARKER_BYTES], 16))
            at += self._frame_bytes
        self._left = data[at:]
        if self._left and self._left[0] != 0x81 and self.ended is None:
            self.ended = f"close {close_code(self._left)}" if self._left[0] == 0x88 else "bytes that are no message"
        return due


def connect(address: Address, source: str | None = None) -> socket.socket:
    """A non-blocking socket on its way to the broker."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source is not None:
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    sock.connect_ex(address)
    return sock


def source_address(index: int) -> str:
    """A loopback address for the index-th connection: each has 28 000 ports of its own, so none run out."""
    return f"127.0.1.{1 + index // 10_000 % 250}"


def open_many(address: Address, offers: Iterable[str], at_once: int = 128) -> Iterator[socket.socket]:
    """Connects and opens one WebSocket for each offer, in any order of completion; raises OSError if one is refused."""
    poll = select.epoll()
    opening: dict[int, tuple[socket.socket, bytes]] = {}
    waiting = iter(enumerate(offers))
    deadline = time.monotonic() + OPEN_SECONDS
    try:
        while True:
            for index, offer in islice(waiting, at_once - len(opening)):
                sock = connect(address, source_address(index))
                opening[sock.fileno()] = (sock, upgrade(address, offer))
                poll.register(sock, select.EPOLLOUT)
            if not opening:
                return
            for fd, _ in poll.poll(1.0):
                sock, request = opening[fd]
                if request:
                    sock.send(request)  # far below what an empty socket takes
                    opening[fd] = (sock, b"")
                    poll.modify(fd, select.EPOLLIN)
                    continue
                poll.unregister(fd)
                del opening[fd]
                _check_answer(sock)
                yield sock
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(opening)} connections were not opened within {OPEN_SECONDS:.0f} s")
    finally:
        poll.close()
        for sock, _ in opening.values():
            sock.close()


def _check_answer(sock: socket.socket) -> None:
    """Takes exactly the head of the answer (one segment on loopback): what follows it are frames."""
    head, found, _ = sock.recv(4096, socket.MSG_PEEK).partition(HEAD_END)
    if not found or not head.startswith(b"HTTP/1.1 101 "):
        sock.close()
        raise ConnectionRefusedError(f"not opened: {head[:60]!r}")
    sock.recv(len(head) + len(HEAD_END))
