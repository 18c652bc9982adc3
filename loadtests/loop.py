"""A small event loop for whoever measures: sockets, exact timers, and the three kinds of client.

asyncio is not used, so that what is measured is the broker and not a second event loop. Everything is open loop: a
message, a connect and a probe have a time at which they are due, whatever became of the one before, and latency counts
from that time.
"""

import contextlib
import heapq
import random
import select
import socket
import time
from collections.abc import Callable
from types import TracebackType

from loadtests.wire import HEAD_END, Address, Arrivals, client_frame, connect, marked, open_many, upgrade

NS = 1_000_000_000
# Due times are spread by this share of their period, or they would keep step with each other.
JITTER = 0.5
RECEIVE_BYTES = 262_144


class Loop:
    def __init__(self) -> None:
        self._poll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[int, int, Callable[[int], None]]] = []
        self._number = 0
        self.random = random.Random(7)
        # How late timers were called: the load's own share of every latency.
        self.late: list[int] = []

    def __enter__(self) -> "Loop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poll.close()

    def watch(self, fd: int, call: Callable[[], None], events: int = select.EPOLLIN) -> None:
        if fd in self._calls:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """Before the socket is closed."""
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def at(self, due_ns: int, call: Callable[[int], None]) -> None:
        """Calls `call(due_ns)` then, or as soon after as this process gets to it."""
        self._number += 1
        heapq.heappush(self._timers, (due_ns, self._number, call))

    def every(self, seconds: float, call: Callable[[int], None], until_ns: int, jitter: float = JITTER) -> None:
        """Calls it once a period, at a random time around the period's beginning."""
        period = int(seconds * NS)

        def again(due_ns: int, base_ns: int) -> None:
            following = base_ns + period
            if following < until_ns:
                later = following + int(period * jitter * self.random.random())
                self.at(later, lambda due: again(due, following))
            call(due_ns)

        start = time.monotonic_ns() + int(period * self.random.random())
        if start < until_ns:
            self.at(start, lambda due: again(due, start))

    def run_until(self, until_ns: int) -> None:
        while True:
            now = time.monotonic_ns()
            while self._timers and self._timers[0][0] <= now:
                due, _, call = heapq.heappop(self._timers)
                self.late.append(time.monotonic_ns() - due)
                call(due)
            if now >= until_ns:
                return
            due = min(until_ns, self._timers[0][0]) if self._timers else until_ns
            # epoll waits whole milliseconds, rounded up by Python: the last one is spent asking.
            wait = max(0, (due - time.monotonic_ns()) // 1_000_000 - 1)
            for fd, _ in self._poll.poll(wait / 1000):
                handler = self._calls.get(fd)
                if handler is not None:
                    handler()


class Publisher:
    """A raw connection that publishes to one channel and hears nothing."""

    def __init__(self, loop: Loop, address: Address, channel: str, payload_bytes: int) -> None:
        (self._socket,) = open_many(address, [f"{channel}|send"])
        self._loop = loop
        self._size = payload_bytes
        self._waiting = bytearray()
        self.sent = 0

    def publish(self, due_ns: int) -> None:
        self.sent += 1
        self._waiting += client_frame(marked(due_ns, self._size))
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self._waiting[: self._socket.send(self._waiting)]
        if self._waiting:
            self._loop.watch(self._socket.fileno(), self._flush, select.EPOLLOUT)
        else:
            self._loop.forget(self._socket.fileno())

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        self._socket.close()


class Subscriber:
    """A raw connection whose every message is timed, from when it was due to when it was read."""

    def __init__(self, loop: Loop, address: Address, channel: str, payload_bytes: int) -> None:
        (self._socket,) = open_many(address, [f"{channel}|recv"])
        self._arrivals = Arrivals(payload_bytes)
        self._loop = loop
        self.samples: list[int] = []
        self.dues: list[int] = []
        self.ended: str | None = None
        loop.watch(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            data = b""
            self.ended = error.strerror
        now = time.monotonic_ns()
        dues = self._arrivals.receive_data(data)
        self.dues += dues
        self.samples += [now - due for due in dues]
        self.ended = self.ended or self._arrivals.ended or (None if data else "end without Close")
        if not data:
            self._loop.forget(self._socket.fileno())

    def close(self) -> None:
        self._loop.forget(self._socket.fileno())
        self._socket.close()


class Visitor:
    """One new connection each time it is due: from then until the whole answer is there."""

    def __init__(self, loop: Loop, address: Address, request: bytes, answer: bytes) -> None:
        self._loop = loop
        self._address = address
        self._request = request
        self._answer = answer
        self.samples: list[int] = []
        self.failures: list[str] = []
        self.open = 0

    @classmethod
    def of_websocket(cls, loop: Loop, address: Address) -> "Visitor":
        return cls(loop, address, upgrade(address, "visitors"), b"HTTP/1.1 101 ")

    @classmethod
    def of_health(cls, loop: Loop, address: Address) -> "Visitor":
        request = f"GET /healthz HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n\r\n".encode()
        return cls(loop, address, request, b"HTTP/1.1 200 ")

    def visit(self, due_ns: int) -> None:
        self.open += 1
        sock = connect(self._address)
        self._loop.watch(sock.fileno(), lambda: self._connected(sock, due_ns), select.EPOLLOUT)

    def _connected(self, sock: socket.socket, due_ns: int) -> None:
        try:
            sock.send(self._request)
        except OSError as error:
            self._done(sock, f"connect: {error.strerror}")
            return
        self._loop.watch(sock.fileno(), lambda: self._answered(sock, due_ns))

    def _answered(self, sock: socket.socket, due_ns: int) -> None:
        try:
            data = sock.recv(4096)
        except OSError as error:
            self._done(sock, f"answer: {error.strerror}")
            return
        if not data.startswith(self._answer) or HEAD_END not in data:
            self._done(sock, f"answer: {data[:40]!r}")
            return
        self.samples.append(time.monotonic_ns() - due_ns)
        self._done(sock, None)

    def _done(self, sock: socket.socket, failure: str | None) -> None:
        if failure is not None:
            self.failures.append(failure)
        self._loop.forget(sock.fileno())
        sock.close()
        self.open -= 1
