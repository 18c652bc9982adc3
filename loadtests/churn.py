"""Scenario `churn`: connects and closes by the hundred thousand must leave nothing behind.

Some 200 clients at a time connect, subscribe to random channels, in both formats, and end in every way a client can: a
Close handshake, a plain end, a reset, in the middle of the request. Messages are published meanwhile, so that leaving
meets fan-out. After 10 000 connects the memory should have reached its plateau; what it grows by later is a leak.
"""

import contextlib
import random
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.report import Progress, Result
from loadtests.server import BenchError, Server, need_files, wait_until
from loadtests.wire import HEAD_END, NORMAL_CLOSE, Address, client_frame, connect, open_many, source_address, upgrade

NAME = "churn"
TITLE = "connects and closes with random subscriptions"
MOST_GROWTH_MIB = 5.0
MIB = 1 << 20
SILENCE_SECONDS = 20.0
QUIET_SECONDS = 20.0
PROGRESS_SECONDS = 5.0
ROOMS = 200
USERS = 1_000_000
PUBLISH_EVERY = 50
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Size:
    """Connects after which memory is read; the first is the plateau."""

    marks: tuple[int, ...] = (10_000, 100_000, 200_000)
    at_once: int = 200


QUICK = Size(marks=(100, 300, 600), at_once=20)


def scaled(factor: float) -> Size:
    return Size(marks=tuple(max(200, int(mark * factor)) for mark in Size.marks))


class Churner:
    """Keeps a number of clients going, each through connect, request, answer, end."""

    def __init__(self, address: Address, at_once: int) -> None:
        self._address = address
        self._at_once = at_once
        self._poll = select.epoll()
        self._steps: dict[int, Callable[[], None]] = {}
        self._random = random.Random(11)
        self.started = 0
        self.finished = 0
        self.failures: dict[str, int] = {}

    def run(self, until: int, each: Callable[[int], None]) -> None:
        """Goes on until so many have ended since the beginning. `each(finished)` is called now and then."""
        last_progress = time.monotonic()
        while self.finished < until:
            while len(self._steps) < self._at_once and self.started < until:
                self._start()
            events = self._poll.poll(SILENCE_SECONDS)
            if not events:
                raise BenchError(f"the broker did nothing for {SILENCE_SECONDS:.0f} s; {len(self._steps)} clients wait")
            for fd, _ in events:
                self._steps[fd]()
            if time.monotonic() - last_progress > PROGRESS_SECONDS:
                last_progress = time.monotonic()
                each(self.finished)

    def close(self) -> None:
        self._poll.close()

    def _offer(self) -> str:
        """One to four channels: busy rooms, and names of their own that nobody else ever uses."""
        draw = self._random
        rooms = {f"room.{draw.randrange(ROOMS)}" for _ in range(draw.randint(1, 3))}
        names = [*sorted(rooms), f"user.{draw.randrange(USERS)}"][-draw.randint(1, 4) :]
        return ", ".join(["broker.json.v1", *names] if draw.random() < 0.3 else [f"{names[0]}|both", *names[1:]])

    def _start(self) -> None:
        sock = connect(self._address, source_address(self.started))
        self.started += 1
        self._steps[sock.fileno()] = lambda: self._connected(sock)
        self._poll.register(sock, select.EPOLLOUT)

    def _connected(self, sock: socket.socket) -> None:
        request = upgrade(self._address, self._offer())
        if self._random.random() < 0.02:
            sock.send(request[: self._random.randrange(len(request))])
            self._done(sock, None)
            return
        try:
            sock.send(request)
        except OSError as error:
            self._done(sock, f"request: {error.strerror}")
            return
        self._steps[sock.fileno()] = lambda: self._answered(sock)
        self._poll.modify(sock, select.EPOLLIN)

    def _answered(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(4096)
        except OSError as error:
            self._done(sock, f"answer: {error.strerror}")
            return
        if not data.startswith(b"HTTP/1.1 101 ") or HEAD_END not in data:
            self._done(sock, f"answer: {data[:40]!r}")
            return
        how = self._random.random()
        if how < 0.6:
            try:
                sock.send(NORMAL_CLOSE)
            except OSError as error:
                self._done(sock, f"close: {error.strerror}")
                return
            self._steps[sock.fileno()] = lambda: self._closing(sock)
            return
        if how < 0.8:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._done(sock, None)

    def _closing(self, sock: socket.socket) -> None:
        """Messages and then the Close may come; the end is the broker's to make."""
        try:
            if sock.recv(65_536):
                return
        except OSError as error:
            self._done(sock, f"end: {error.strerror}")
            return
        self._done(sock, None)

    def _done(self, sock: socket.socket, failure: str | None) -> None:
        if failure is not None:
            self.failures[failure] = self.failures.get(failure, 0) + 1
        self.finished += 1
        del self._steps[sock.fileno()]
        self._poll.unregister(sock)
        sock.close()


class Talk:
    """Publishes to random rooms, one message a while."""

    def __init__(self, address: Address) -> None:
        (self._socket,) = open_many(address, ["broker.json.v1"])
        self._random = random.Random(13)

    def publish(self) -> None:
        room = self._random.randrange(ROOMS)
        self._socket.send(client_frame(b'{"type":"publish","channel":"room.%d","text":"hello, room"}' % room))
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(65_536)

    def close(self) -> None:
        self._socket.close()


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(size.at_once + 100)
    with Server() as server:
        files, plateau = server.files(), 0
        result.add("RSS at start", server.rss_bytes() / MIB, "MiB")
        churner, talk = Churner(server.address, size.at_once), Talk(server.address)
        cpu, started = server.cpu_seconds(), time.monotonic()
        for mark in size.marks:
            while churner.finished < mark:
                churner.run(min(mark, churner.finished + PUBLISH_EVERY), lambda _: None)
                talk.publish()
                if time.monotonic() - started > PROGRESS_SECONDS:
                    started = time.monotonic()
                    progress(f"{churner.finished} of {size.marks[-1]}, RSS {server.rss_bytes() / MIB:.1f} MiB")
            left = _left_files(server, files + 1)
            rss = server.rss_bytes()
            if not plateau:
                plateau = rss
                result.add(f"RSS after {mark} (the plateau)", rss / MIB, "MiB")
            else:
                result.add(f"RSS after {mark}", rss / MIB, "MiB")
                result.add(f"above the plateau after {mark}", (rss - plateau) / MIB, "MiB", most=MOST_GROWTH_MIB)
            result.add(f"file descriptors left after {mark}", left, "", exactly=0)
        result.add("CPU of the broker per connect", (server.cpu_seconds() - cpu) / churner.finished * 1e6, "us")
        talk.close()
        churner.close()
        result.failures += [f"{count} clients: {why}" for why, count in sorted(churner.failures.items())]
        result.failures += server.stop()
    return result


def _left_files(server: Server, before: int) -> int:
    """File descriptors above what was open before, once lingering connections have had their time."""
    wait_until(lambda: server.files() <= before, QUIET_SECONDS)
    return max(0, server.files() - before)
