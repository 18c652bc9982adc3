"""Many readers in a process of their own: `python -m loadtests.crowd SPEC`, started by a scenario through `Crowd`.

The process opens its readers, says so, then drains them and counts bytes until its input ends. It runs at a lower
priority if asked: then whoever measures latency on the same CPU goes first, and thousands of readers that wake at once
do not delay the measurement. Not at idle priority: beside other work it would starve, and not be a healthy reader.
"""

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from loadtests.child import Child, say
from loadtests.server import need_files, wait_until
from loadtests.wire import Address, close_code, open_many, server_frame

RECEIVE_BYTES = 262_144
# Only a chunk this small is kept for its Close frame (at most 127 bytes), so that the common case copies nothing.
TAIL_BYTES = 128
NICE = 5


@dataclass(frozen=True)
class Spec:
    """`numbered`: expect exactly this many messages, payloads 00000000, 00000001 and so on; each byte is compared."""

    address: Address
    offers: dict[str, int]
    reads: bool = True
    yields: bool = False
    numbered: int = 0


@dataclass(frozen=True)
class Count:
    """What the readers have got by now. `last_ns`: when the last byte came."""

    readers: int
    fewest_bytes: int
    most_bytes: int
    ended: int
    endings: dict[str, int]
    garbled: int
    last_ns: int


def numbered_payload(index: int) -> bytes:
    return b"%08d" % index


class Readers:
    """The process's side."""

    def __init__(self, spec: Spec) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._got: dict[int, int] = {}
        self._tails: dict[int, bytes] = {}
        self._endings: dict[str, int] = {}
        self._garbled: set[int] = set()
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._expected = memoryview(b"".join(server_frame(numbered_payload(i)) for i in range(spec.numbered)))
        self._last_ns = 0
        for sock in open_many(spec.address, _each(spec.offers)):
            fd = sock.fileno()
            self._sockets[fd] = sock
            self._got[fd] = 0
            if spec.reads:
                self._poll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def drain(self) -> None:
        """Reads once from every reader that has something."""
        for fd, _ in self._poll.poll(0):
            try:
                size = self._sockets[fd].recv_into(self._buffer)
            except BlockingIOError:
                continue
            except OSError as error:
                self._end(fd, error.strerror or "error")
                continue
            if size == 0:
                self._end(fd, "end without Close")
                continue
            at = self._got[fd]
            self._got[fd] = at + size
            if self._expected and self._expected[at : at + size] != self._buffer[:size]:
                self._garbled.add(fd)
            if size < TAIL_BYTES:
                self._tails[fd] = bytes(self._buffer[:size])
        self._last_ns = time.monotonic_ns()

    def _end(self, fd: int, how: str) -> None:
        """A Close that came before says more than how the connection ended."""
        self._poll.unregister(fd)
        code = close_code(self._tails.get(fd, b""))
        why = how if code is None else f"close {code}"
        self._endings[why] = self._endings.get(why, 0) + 1

    def count(self) -> Count:
        got = list(self._got.values()) or [0]
        return Count(
            len(self._got),
            min(got),
            max(got),
            sum(self._endings.values()),
            self._endings,
            len(self._garbled),
            self._last_ns,
        )


def _each(offers: dict[str, int]) -> Iterator[str]:
    for offer, count in offers.items():
        yield from (offer for _ in range(count))


def main() -> None:
    fields = json.loads(sys.argv[1])
    spec = Spec(**{**fields, "address": tuple(fields["address"])})
    need_files(sum(spec.offers.values()) + 64)
    readers = Readers(spec)
    if spec.yields:
        os.nice(NICE)
    say(asdict(readers.count()))
    poll = select.epoll()
    poll.register(0, select.EPOLLIN)
    poll.register(readers.fileno(), select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd:
                readers.drain()
            elif not os.read(0, 1):
                return
            else:
                say(asdict(readers.count()))


class Crowd(Child):
    """The scenario's side: a context around such a process."""

    def __init__(self, spec: Spec) -> None:
        super().__init__("loadtests.crowd", asdict(spec))

    def opened(self) -> Count:
        """Waits until every reader is connected."""
        return Count(**self.read())

    def count(self) -> Count:
        self.write(b"?")
        return self.opened()

    def wait_for(self, enough: Callable[[Count], bool], seconds: float) -> Count:
        """The first count that is enough, or the last one when the time is over."""
        counts: list[Count] = []

        def asked() -> bool:
            counts[:] = [self.count()]
            return enough(counts[0])

        wait_until(asked, seconds)
        return counts[0]


if __name__ == "__main__":
    main()
