"""Subscribers that go and come back: `python -m loadtests.returning SPEC`, started by a scenario through `Returning`.

Each cuts its connection after a random number of messages, by reset, by FIN or by Close, stays away for a while, and
resumes where it was; some stay until more has been published than is kept, some stop reading for as long. All they get
is checked (sequence.py). Absences are counted in messages published, not in seconds: they mean the same on any machine.
"""

import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum, auto

from loadtests.board import HEAD, NOBODY, Board
from loadtests.child import Child, say
from loadtests.sequence import Checker, Columns, Tally, position_of, read_offset
from loadtests.server import need_files, wait_until
from loadtests.wire import HEAD_END, NORMAL_CLOSE, Address, client_frame, connect, upgrade

RECEIVE_BYTES = 262_144
# Bounds what the kernel holds for a reader that stops: it is to fall behind within the messages of a run.
RECEIVE_BUFFER_BYTES = 65_536
IDLE_SECONDS = 0.005  # until it looks at what has been published again
RETRY_SECONDS = 0.05
RESET = struct.pack("ii", 1, 0)
MESSAGE_BYTES = 180  # of the JSON format, at least


@dataclass(frozen=True)
class Spec:
    """`window`: messages that the channel keeps; 0: no history, and nobody goes. `life`: messages between going, on
    average. `first`: the number of the first reader, which makes its address. `slot`: on the board.
    """

    address: Address
    channel: str
    json_readers: int
    raw_readers: int
    total: int
    window: int
    life: int
    queue: int
    board: str
    slots: int
    slot: int
    first: int = 0


@dataclass
class Count:
    """What the readers of a process are and have seen. `ends`: of connections that their reader did not end."""

    readers: int = 0
    subscribed: int = 0
    complete: int = 0
    connected: int = 0
    returns: int = 0
    raw_returns: int = 0
    stalls: int = 0
    retries: int = 0
    cut_frames: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    stalled_ends: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def read(cls, fields: dict[str, object]) -> "Count":
        tally = fields.pop("tally")
        assert isinstance(tally, dict)
        return cls(**fields, tally=Tally(**tally))  # type: ignore[arg-type]

    def add(self, other: "Count") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, Tally):
                mine.add(value)
            elif isinstance(value, dict):
                for why, count in value.items():
                    mine[why] = mine.get(why, 0) + count
            else:
                setattr(self, name, mine + value)


def reader_host(number: int) -> str:
    """An address of its own for each reader, so that an onlooker knows who is connected where."""
    return f"127.0.{2 + number // 250}.{1 + number % 250}"


class State(Enum):
    AWAY = auto()
    OPENING = auto()
    READING = auto()
    STALLED = auto()
    ENDING = auto()  # it has said so, and reads until the broker has ended it, too


class Reader:
    def __init__(self, number: int, json_format: bool, crowd: "Crowd") -> None:
        self.json_format = json_format
        self.state = State.AWAY
        self.until = 0  # AWAY, STALLED: what must be published for it to go on
        self.not_before = 0.0
        self.sock: socket.socket | None = None
        self._host = reader_host(number)
        self._crowd = crowd
        self._request = b""
        self._later = b""  # a command that follows the answer to the request
        self._head = b""
        self._began = False
        self._slow = False  # has stalled: how the broker ends it is another matter
        self._leave_at = 0
        self.checker = Checker(crowd.columns, crowd.count.tally, crowd.spec.window, crowd.head, json_format)

    @property
    def number(self) -> int:
        return self.checker.next

    @property
    def counts(self) -> bool:
        """Whether whoever publishes is to wait for it."""
        return self.state is State.OPENING or self.state is State.READING

    def open(self) -> None:
        spec, draw = self._crowd.spec, self._crowd.random
        position = self._position() if self._began else ""
        self._later = b""
        if not self.json_format:
            offer = f"{spec.channel}|recv" + (f"|since.{position}" if position else "")
        elif position and draw.random() < 0.5:
            offer = "broker.json.v1"
            members = {"type": "subscribe", "channel": [{"channel": spec.channel, "since": position}]}
            self._later = client_frame(json.dumps(members).encode())
        else:
            offer = f"broker.json.v1, {spec.channel}" + (f"|since.{position}" if position else "")
        self.checker.connect(asked=bool(position))
        self._request, self._head = upgrade(spec.address, offer), b""
        try:
            self.sock = connect(spec.address, self._host)
        except OSError:
            self._retry()
            return
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.state = State.OPENING
        self._crowd.watch(self.sock, self._connected, select.EPOLLOUT)

    def _position(self) -> str:
        if self.json_format:
            return self.checker.position
        # A raw client learns its position elsewhere; here, what it must be is known.
        return position_of(self._crowd.epoch, self.number) if self._crowd.epoch else ""

    def _connected(self) -> None:
        assert self.sock is not None
        try:
            self.sock.send(self._request)
        except OSError:
            self._retry()
            return
        self._crowd.watch(self.sock, self._answered, select.EPOLLIN)

    def _answered(self) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        self._head += data
        head, found, rest = self._head.partition(HEAD_END)
        if not data or not head.startswith(b"HTTP/1.1 101 "[: len(head)]):
            self._retry()
            return
        if not found:
            return
        if self._later:
            try:
                self.sock.send(self._later)
            except OSError:
                self._retry()
                return
        if self._began:
            self._crowd.count.returns += 1
            self._crowd.count.raw_returns += not self.json_format
        self._began = True
        self._slow = False
        self.state = State.READING
        spec, draw = self._crowd.spec, self._crowd.random
        self._leave_at = self.number + draw.randint(1, 2 * spec.life) if spec.window else NOBODY
        self._crowd.watch(self.sock, self._readable, select.EPOLLIN)
        self._take(rest)

    def _retry(self) -> None:
        """The broker is not there, or not yet."""
        self._crowd.count.retries += 1
        self._leave(0)
        self.not_before = time.monotonic() + RETRY_SECONDS * (1 + self._crowd.random.random())

    def _readable(self) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or "error")
            return
        if data:
            self._take(data)
        else:
            self._lost("end without Close")

    def _take(self, data: bytes) -> None:
        self.checker.receive_data(data)
        if self.checker.close_code is not None:
            self._lost("close")  # and with it the broker need not wait for an answer
        elif self.checker.refused is not None:
            self._retry()
        elif self._wants_to_go():
            self._go()

    def _wants_to_go(self) -> bool:
        if self.state is not State.READING or not self.checker.subscribed:
            return False
        return self._leave_at <= self.number < self._crowd.spec.total

    def _lost(self, how: str) -> None:
        """The connection has ended. A Close that came before says more than how."""
        if self.state is State.ENDING:
            self._leave(self._absence())
            return
        count = self._crowd.count
        why = how if self.checker.close_code is None else f"close {self.checker.close_code}"
        ends = count.stalled_ends if self._slow else count.ends
        ends[why] = ends.get(why, 0) + 1
        count.cut_frames += self.checker.incomplete and not self._slow
        self._leave(0)

    # Going.

    def _go(self) -> None:
        assert self.sock is not None
        spec, draw = self._crowd.spec, self._crowd.random
        how = draw.random()
        stall = 2 * (spec.window + spec.queue) + 4 * RECEIVE_BUFFER_BYTES // MESSAGE_BYTES
        if how < 0.02 and self.json_format and self.number + stall < spec.total:
            self._crowd.count.stalls += 1
            self._slow = True
            self.state, self.until = State.STALLED, self.number + stall
            self._leave_at = self.number + stall + draw.randint(1, 2 * spec.life)
            self._crowd.forget(self.sock)
        elif how < 0.4:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._leave(self._absence())
        else:
            self.state = State.ENDING
            with contextlib.suppress(OSError):  # the broker may have ended it this moment
                if how < 0.7:
                    self.sock.shutdown(socket.SHUT_WR)
                else:
                    self.sock.send(NORMAL_CLOSE)

    def _absence(self) -> int:
        """What is published before it comes back: mostly nothing, sometimes some, and sometimes more than is kept."""
        spec, draw = self._crowd.spec, self._crowd.random
        how = draw.random()
        if how < 0.7:
            return 0
        if how < 0.94 or not self.json_format:
            return self.number + draw.randint(1, spec.window // 2)
        return self.number + spec.window + draw.randint(1, spec.window)

    def _leave(self, until: int) -> None:
        if self.sock is not None:
            self._crowd.forget(self.sock)
            self.sock.close()
            self.sock = None
        self.state, self.until = State.AWAY, until

    def go_on(self) -> None:
        """What it waited for has been published."""
        if self.state is State.AWAY:
            self.open()
        else:
            assert self.sock is not None
            self.state = State.READING
            self._crowd.watch(self.sock, self._readable, select.EPOLLIN)


class Crowd:
    """The process's side: all its readers, and the loop that serves them."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.columns = Columns(spec.total)
        self.count = Count(readers=spec.json_readers + spec.raw_readers)
        self.random = random.Random(spec.slot)
        self.finishing = False
        self._board = Board(spec.board, spec.slots)
        self._poll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._readers = [
            Reader(spec.first + index, index < spec.json_readers, self) for index in range(self.count.readers)
        ]

    @property
    def epoch(self) -> str:
        """Of the channel's history, as the first reader knows it."""
        position = self._readers[0].checker.position
        return read_offset(position)[0] if position else ""

    def head(self) -> int:
        return self._board[HEAD]

    def watch(self, sock: socket.socket, call: Callable[[], None], events: int) -> None:
        if sock.fileno() in self._calls:
            self._poll.modify(sock, events)
        else:
            self._poll.register(sock, events)
        self._calls[sock.fileno()] = call

    def forget(self, sock: socket.socket) -> None:
        """Before it is closed, or while it is not read."""
        if self._calls.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock)

    def run(self) -> None:
        """Until the input of this process ends."""
        self._poll.register(0, select.EPOLLIN)
        told = False
        while True:
            for fd, _ in self._poll.poll(IDLE_SECONDS):
                if fd:
                    call = self._calls.get(fd)
                    if call is not None:
                        call()
                elif not self._obey(os.read(0, 1)):
                    return
            self._wake()
            self._board[self.spec.slot] = min(
                (reader.number for reader in self._readers if reader.counts), default=NOBODY
            )
            if not told and all(reader.checker.subscribed and reader.counts for reader in self._readers):
                told = True
                say(asdict(self._counted()))

    def _obey(self, order: bytes) -> bool:
        if order == b"?":
            say(asdict(self._counted()))
        elif order == b"f":
            self.finishing = True
        return bool(order)

    def _wake(self) -> None:
        head = self.head()
        everything = head >= self.spec.total
        now = time.monotonic()
        for reader in self._readers:
            if reader.state is State.AWAY:
                due = not self.finishing and reader.not_before <= now
            else:
                due = reader.state is State.STALLED
            if due and (everything or reader.until <= head):
                reader.go_on()

    def _counted(self) -> Count:
        count, total = self.count, self.spec.total
        count.subscribed = sum(reader.checker.subscribed for reader in self._readers)
        count.complete = sum(reader.number == total and reader.state is State.READING for reader in self._readers)
        count.connected = sum(reader.sock is not None for reader in self._readers)
        return count


class Returning(Child):
    """The scenario's side: a context around such a process."""

    def __init__(self, spec: Spec) -> None:
        super().__init__("loadtests.returning", asdict(spec))

    def opened(self) -> Count:
        """Waits until every reader is subscribed."""
        return Count.read(self.read())

    def count(self) -> Count:
        self.write(b"?")
        return self.opened()

    def finish(self) -> None:
        """Whoever is cut from now on stays away."""
        self.write(b"f")


def counted(crowds: list[Returning]) -> Count:
    """What all readers have seen by now."""
    total = Count()
    for crowd in crowds:
        total.add(crowd.count())
    return total


def wait_for(crowds: list[Returning], enough: Callable[[Count], bool], seconds: float) -> Count:
    """The first count that is enough, or the last one when the time is over."""
    counts: list[Count] = []

    def asked() -> bool:
        counts[:] = [counted(crowds)]
        return enough(counts[0])

    wait_until(asked, seconds)
    return counts[0]


def main() -> None:
    fields = json.loads(sys.argv[1])
    spec = Spec(**{**fields, "address": tuple(fields["address"])})
    need_files(spec.json_readers + spec.raw_readers + 64)
    Crowd(spec).run()


if __name__ == "__main__":
    main()
