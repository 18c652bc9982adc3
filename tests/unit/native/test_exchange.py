"""The engine's end of links, driven by bytes: what it passes on and to whom, what it refuses, what it says was lost."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from broker.native._exchange import NOBODY, Exchange
from tests.records import ACK, CALL, ERROR, HEAD, MESSAGE, MISSED, NO_ECHO, OFFSET, PUBLISH, REPLY, Record, unpack


class Handler:
    """Remembers what it was asked; `says` answers calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int, bytes, bytes]] = []
        self.replies: list[tuple[int, int, bytes, bool]] = []
        self.closed: list[int] = []
        self.errors: list[BaseException] = []
        self.says: Callable[[int, int], object] = lambda port, verb: None

    def on_call(self, port: int, verb: int, token: int, name: bytes, payload: bytes) -> None:
        self.calls.append((port, verb, token, name, payload))
        self.says(port, verb)

    def on_reply(self, port: int, token: int, payload: bytes, failed: bool) -> None:
        self.replies.append((port, token, payload, failed))

    def on_closed(self, port: int) -> None:
        self.closed.append(port)

    def on_error(self, error: BaseException) -> None:
        self.errors.append(error)


class Exchanging:
    """An exchange, and the workers' ends of its links."""

    def __init__(self, most_output_bytes: int = 1 << 20) -> None:
        self.handler = Handler()
        self.asked: list[Callable[[], None]] = []
        self.exchange = Exchange(self.handler, self.asked.append, most_output_bytes)
        self.sockets: list[socket.socket] = []

    def link(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        self.sockets += [ours, theirs]
        return self.exchange.attach(ours.fileno()), theirs

    def turn(self) -> None:
        self.exchange.turn()
        while self.asked:
            self.asked.pop(0)()

    def close(self) -> None:
        self.exchange.destroy()
        for each in self.sockets:
            each.close()


def received(worker: socket.socket) -> list[Record]:
    """Everything that has arrived; a time on a message is taken off."""
    data = b""
    while True:
        try:
            chunk = worker.recv(1 << 20)
        except BlockingIOError:
            break
        if not chunk:
            break
        data += chunk
    return [each._replace(value=0) if each.type == MESSAGE else each for each in unpack(data)]


def ended(worker: socket.socket) -> bool:
    while True:
        try:
            if not worker.recv(1 << 20):
                return True
        except BlockingIOError:
            return False


@pytest.fixture
def exchanging() -> Iterator[Exchanging]:
    exchanging = Exchanging()
    yield exchanging
    exchanging.close()


def test_a_publish_goes_to_every_worker_that_wants_the_channel_and_back_to_its_own_with_its_connection(
    exchanging: Exchanging,
) -> None:
    (first, one), (second, two), (_, three) = (exchanging.link() for _ in range(3))
    exchanging.exchange.want(first, b"news")
    exchanging.exchange.want(second, b"news")
    publish = Record(PUBLISH, 1, NO_ECHO, 77, 0, 0, b"news", b',"from":1', b"hello")
    one.send(publish.pack())
    exchanging.turn()
    passed = publish._replace(type=MESSAGE)
    size = len(publish.pack())
    assert received(one) == [passed, Record(ACK, number=1, value=size)]
    assert received(two) == [passed._replace(conn=0)], "the connection means nothing to another worker"
    assert received(three) == []
    assert exchanging.exchange.sequenced == 1


def test_a_record_cut_anywhere_is_taken_as_if_it_had_come_whole(exchanging: Exchanging) -> None:
    port, worker = exchanging.link()
    exchanging.exchange.want(port, b"c")
    whole = Record(PUBLISH, 2, 0, 5, 0, 0, b"c", b"", b"\x00\xff").pack()
    for at in range(1, len(whole)):
        worker.send(whole[:at])
        exchanging.turn()
        assert received(worker) == []
        worker.send(whole[at:])
        exchanging.turn()
        message, ack = received(worker)
        assert (message.payload, message.kind, ack.number) == (b"\x00\xff", 2, at)


def test_many_records_in_one_read_are_acknowledged_once(exchanging: Exchanging) -> None:
    _, worker = exchanging.link()
    record = Record(PUBLISH, 1, name=b"nobody", payload=b"x" * 100).pack()
    worker.send(record * 50)
    exchanging.turn()
    assert received(worker) == [Record(ACK, number=50, value=50 * len(record))]


def test_a_record_larger_than_any_buffer_arrives(exchanging: Exchanging) -> None:
    (first, one), (second, two) = exchanging.link(), exchanging.link()
    exchanging.exchange.want(second, b"big")
    payload = bytes(range(256)) * 3000
    data = Record(PUBLISH, 2, name=b"big", payload=payload).pack()
    got: list[Record] = []
    pending = b""
    while not got:
        if data:
            with suppress(BlockingIOError):
                data = data[one.send(data) :]
        exchanging.turn()
        try:
            pending += two.recv(1 << 20)
        except BlockingIOError:
            continue
        if len(pending) >= HEAD.size and len(pending) == HEAD.unpack_from(pending)[0]:
            got = unpack(pending)
    assert got[0].payload == payload
    assert first != second


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 47},
        {"size": 56},
        {"size": 0xFFFFFFFF},
        {"name_size": 0xFFFFFFFF},
        {"extra_size": 0xFFFFFFFF, "payload_size": 0xFFFFFFFF, "name_size": 0xFFFFFFFF},
        {"payload_size": 0xFFFFFFFF - 48},
        {"size": 48, "name_size": 0xFFFFFFFF, "extra_size": 1},
    ],
    ids=str,
)
def test_sizes_that_do_not_add_up_end_the_link_and_no_other(exchanging: Exchanging, wrong: dict[str, int]) -> None:
    (bad, one), (good, two) = exchanging.link(), exchanging.link()
    exchanging.exchange.want(good, b"c")
    one.send(Record(PUBLISH, 1).pack(**wrong))
    exchanging.turn()
    assert exchanging.handler.closed == [bad]
    two.send(Record(PUBLISH, 1, name=b"c").pack())
    exchanging.turn()
    assert [record.type for record in received(two)] == [MESSAGE, ACK]


@pytest.mark.parametrize("type_", [0, MESSAGE, ACK, MISSED, 7, 255])
def test_what_no_worker_sends_ends_its_link(exchanging: Exchanging, type_: int) -> None:
    port, worker = exchanging.link()
    worker.send(Record(type_).pack())
    exchanging.turn()
    assert exchanging.handler.closed == [port]
    with pytest.raises(KeyError):
        exchanging.exchange.tell(port, 1, b"", b"")


def test_calls_and_answers_reach_the_python_side_in_their_place_among_publishes(exchanging: Exchanging) -> None:
    port, worker = exchanging.link()
    exchanging.handler.says = lambda port, verb: exchanging.exchange.want(port, b"late")
    publish = Record(PUBLISH, 1, name=b"late", payload=b"x")
    worker.send(publish.pack() + Record(CALL, 9, number=3, name=b"late", payload=b"{}").pack() + publish.pack())
    worker.send(Record(REPLY, flags=ERROR, number=4, payload=b"no").pack())
    exchanging.turn()
    assert exchanging.handler.calls == [(port, 9, 3, b"late", b"{}")]
    assert exchanging.handler.replies == [(port, 4, b"no", True)]
    assert [record.type for record in received(worker)] == [MESSAGE, ACK], "only what came after the join"


def test_what_the_python_side_says_goes_out_in_order_and_in_one_write(exchanging: Exchanging) -> None:
    port, worker = exchanging.link()
    other, third = exchanging.link()
    exchanging.exchange.want(port, b"c")
    exchanging.exchange.reply(port, 7, b"yes", False)
    exchanging.exchange.reply(port, 8, b"word", True)
    assert exchanging.exchange.publish(b"c", 0, b"1", b',"x":1', NOBODY, 0, True, 41, 1234) == 1
    exchanging.exchange.call(port, 2, 9, b"c", b"q")
    exchanging.exchange.tell_wanting(3, b"c", b"t")
    exchanging.exchange.tell_wanting(3, b"unknown", b"t")
    assert len(exchanging.asked) == 1
    exchanging.turn()
    assert received(worker) == [
        Record(REPLY, number=7, payload=b"yes"),
        Record(REPLY, flags=ERROR, number=8, payload=b"word"),
        Record(MESSAGE, 0, OFFSET, 0, 41, 0, b"c", b',"x":1', b"1"),
        Record(CALL, 2, number=9, name=b"c", payload=b"q"),
        Record(CALL, 3, number=0, name=b"c", payload=b"t"),
    ]
    assert received(third) == []
    assert other != port


def test_interest_ends_with_unwant_and_with_the_link(exchanging: Exchanging) -> None:
    (first, one), (second, _) = exchanging.link(), exchanging.link()
    for port in (first, second, second):
        exchanging.exchange.want(port, b"c")
    assert exchanging.exchange.wanted(b"c") == 2
    exchanging.exchange.unwant(second, b"c")
    exchanging.exchange.unwant(second, b"c")
    exchanging.exchange.unwant(second, b"never")
    assert exchanging.exchange.wanted(b"c") == 1
    one.close()
    exchanging.turn()
    assert exchanging.handler.closed == [first]
    assert (exchanging.exchange.wanted(b"c"), exchanging.exchange.names()) == (0, [])
    again, _ = exchanging.link()
    assert again == first, "the number is free"


def test_a_worker_that_reads_nothing_loses_messages_is_told_how_many_and_nobody_else_notices() -> None:
    exchanging = Exchanging(most_output_bytes=50_000)
    (slow, one), (fast, two), (_, publisher) = (exchanging.link() for _ in range(3))
    for port in (slow, fast):
        exchanging.exchange.want(port, b"live")
        exchanging.exchange.want(port, b"kept")
    sent = 0
    while exchanging.exchange.lost_count < 20:
        publisher.send(Record(PUBLISH, 1, name=b"live", payload=b"%06d" % sent + b"x" * 2000).pack())
        exchanging.turn()
        sent += 1
        assert [record.payload[:6] for record in received(two)] == [b"%06d" % (sent - 1)]
        received(publisher)
    exchanging.exchange.publish(b"kept", 1, b"a", b"", NOBODY, 0, True, 500, 1)
    exchanging.exchange.publish(b"kept", 1, b"b", b"", NOBODY, 0, True, 501, 1)
    assert exchanging.exchange.waiting(slow) < 60_000
    got: list[Record] = []
    while not any(record.type == MISSED and record.name == b"live" for record in got):
        got += received(one)
        exchanging.turn()
    heard = [record for record in got if record.type == MESSAGE]
    lost = {record.name: record for record in got if record.type == MISSED}
    assert [int(record.payload[:6]) for record in heard] == list(range(len(heard))), "no hole before the notice"
    assert len(heard) + lost[b"live"].number == sent
    assert (lost[b"kept"].number, lost[b"kept"].flags) == (500, OFFSET), "with history: where to read on"
    publisher.send(Record(PUBLISH, 1, name=b"live", payload=b"after").pack())
    exchanging.turn()
    assert [record.payload for record in received(one)] == [b"after"]
    exchanging.close()


def test_a_worker_that_takes_nothing_at_all_is_given_up_before_its_answers_fill_the_memory() -> None:
    exchanging = Exchanging(most_output_bytes=10_000)
    port, worker = exchanging.link()
    for _ in range(1000):
        if port in exchanging.handler.closed:
            break
        exchanging.exchange.reply(port, 1, b"x" * 1000, False)
        exchanging.turn()
    assert exchanging.handler.closed == [port]
    assert worker.fileno() > 0
    exchanging.close()


def test_an_error_of_the_python_side_ends_that_link_and_is_reported(exchanging: Exchanging) -> None:
    port, worker = exchanging.link()
    _, other = exchanging.link()

    def fail(port: int, verb: int) -> None:
        raise ValueError("no such verb")

    exchanging.handler.says = fail
    worker.send(Record(CALL, 99).pack())
    exchanging.turn()
    assert [str(error) for error in exchanging.handler.errors] == ["no such verb"]
    assert exchanging.handler.closed == [port]
    other.send(Record(PUBLISH, 1, name=b"c").pack())
    exchanging.turn()
    assert [record.type for record in received(other)] == [ACK]


def test_links_can_be_ended_from_this_side_also_from_within_a_call(exchanging: Exchanging) -> None:
    port, worker = exchanging.link()
    exchanging.handler.says = lambda port, verb: exchanging.exchange.detach(port)
    worker.send(Record(CALL, 1).pack() * 3)
    exchanging.turn()
    assert exchanging.handler.closed == [port]
    assert len(exchanging.handler.calls) == 1
    with pytest.raises(KeyError):
        exchanging.exchange.detach(port)


def test_an_exchange_cannot_be_destroyed_by_those_it_calls(exchanging: Exchanging) -> None:
    port, worker = exchanging.link()
    exchanging.handler.says = lambda port, verb: exchanging.exchange.destroy()
    worker.send(Record(CALL, 1).pack() * 3)
    exchanging.turn()
    assert [str(error) for error in exchanging.handler.errors] == ["destroy inside a turn"]
    assert exchanging.handler.closed == [port], "as any call that fails"


def test_what_the_end_of_a_link_makes_others_be_told_does_not_wait_for_the_next_event(exchanging: Exchanging) -> None:
    (leaving, one), (staying, two), (detached, _) = (exchanging.link() for _ in range(3))

    def closed(port: int) -> None:
        exchanging.handler.closed.append(port)
        if port == leaving:
            exchanging.exchange.tell(staying, 3, b"c", b"left")
            exchanging.exchange.detach(detached)

    exchanging.handler.on_closed = closed  # type: ignore[method-assign]
    one.close()
    exchanging.turn()
    assert received(two) == [Record(CALL, 3, name=b"c", payload=b"left")]
    assert exchanging.handler.closed == [leaving, detached]


def test_more_links_than_there_are_places_are_refused(exchanging: Exchanging) -> None:
    for _ in range(256):
        exchanging.link()
    with pytest.raises(ValueError, match="256"):
        exchanging.link()


def test_after_its_end_an_exchange_does_nothing() -> None:
    exchanging = Exchanging()
    _, worker = exchanging.link()
    exchanging.exchange.destroy()
    exchanging.exchange.turn()
    assert not ended(worker), "the socket is the caller's to close"
    for each in exchanging.sockets:
        each.close()
