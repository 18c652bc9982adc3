"""The worker's end of a link, turn by turn, with the test as the engine: order, credit, budgets, every kind of end."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client_frames import TEXT, frame
from tests.integration.turning import Turning, turning
from tests.records import ACK, CALL, ERROR, MESSAGE, MISSED, NO_ECHO, OFFSET, PUBLISH, REPLY, Record, unpack

WINDOW = 10_000


class Link:
    """The link's handler, and the engine's end of it."""

    def __init__(self, world: Turning) -> None:
        self.world = world
        self.ours, self.engine = socket.socketpair()
        for each in (self.ours, self.engine):
            each.setblocking(False)
        self.heard: list[tuple[object, ...]] = []
        self.unknown: list[int] | None = None
        self.fails = False
        world.reactor.expect_link(self, WINDOW)

    def attach(self) -> "Link":
        self.world.reactor.attach_link(self.ours.fileno())
        return self

    def on_sequenced(
        self, name: bytes, kind: int, payload: bytes, extra: bytes, conn: int, echo: bool, offset: int, time_ms: int
    ) -> None:
        self.note("sequenced", name, kind, payload, extra, conn, echo, offset, time_ms)

    def on_acked(self, count: int) -> None:
        self.note("acked", count)

    def on_missed(self, name: bytes, number: int, with_offset: bool) -> None:
        self.note("missed", name, number, with_offset)

    def on_call(self, verb: int, token: int, name: bytes, payload: bytes) -> None:
        self.note("call", verb, token, name, payload)

    def on_reply(self, token: int, payload: bytes, failed: bool) -> None:
        self.note("reply", token, payload, failed)

    def on_down(self, unknown: list[int]) -> None:
        assert self.unknown is None, "an end is told once"
        self.unknown = unknown

    def note(self, *what: object) -> None:
        if self.fails:
            raise ValueError("the handler fails")
        self.heard.append(what)

    def says(self, *records: Record) -> None:
        self.engine.send(b"".join(record.pack() for record in records))
        self.world.turns(2)

    def got(self) -> list[Record]:
        self.world.turns(2)
        try:
            return unpack(self.engine.recv(1 << 20))
        except BlockingIOError:
            return []

    def close(self) -> None:
        self.ours.close()
        self.engine.close()


@contextmanager
def linked() -> Iterator[tuple[Turning, Link]]:
    with turning() as world:
        link = Link(world)
        try:
            yield world, link
        finally:
            world.reactor.detach_link()
            link.close()


def message(name: bytes, payload: bytes) -> Record:
    return Record(MESSAGE, 1, name=name, payload=payload)


def test_a_raw_message_goes_to_the_engine_first_and_is_delivered_when_it_comes_back() -> None:
    with linked() as (world, link):
        link.attach()
        (publisher,) = world.publishers(1, b"news")
        (reader,) = world.subscribers(1, b"news")
        publisher.send(frame(TEXT, b"hello"))
        (publish,) = link.got()
        assert (publish.type, publish.kind, publish.name, publish.payload) == (PUBLISH, 1, b"news", b"hello")
        assert publish.conn == publisher.conn
        assert publish.extra.startswith(b',"from":{"session":"')
        assert reader.frames() == []
        assert (world.counter("n_published"), world.counter("n_sequenced")) == (1, 0)
        link.says(publish._replace(type=MESSAGE), Record(ACK, number=1, value=len(publish.pack())))
        assert reader.frames() == [(1, b"hello")]
        assert world.counter("n_sequenced") == 1


def test_what_is_published_in_one_turn_goes_out_in_order() -> None:
    with linked() as (world, link):
        link.attach()
        (publisher,) = world.publishers(1, b"c")
        publisher.send(b"".join(frame(TEXT, b"%d" % number) for number in range(50)))
        assert [record.payload for record in link.got()] == [b"%d" % number for number in range(50)]


def test_without_credit_publishers_are_not_read_and_others_are() -> None:
    with linked() as (world, link):
        link.attach()
        world.when_message = lambda conn, payload: not world.reactor.send(conn, b"heard")
        publisher, other = world.publishers(1, b"c")[0], world.open()
        publisher.send(frame(TEXT, b"x" * 3000) * 6)
        taken = link.got()
        assert len(taken) == 4, "the one that ends the credit is still taken"
        assert not world.reactor.link_has_credit
        assert world.counter("n_credit_waits") == 1
        other.send(frame(TEXT, b"?"))
        world.turns(3)
        assert other.frames() == [(1, b"heard")]
        size = len(taken[0].pack())
        link.says(Record(ACK, number=1, value=size))
        assert link.got() == [], "half of the window has to be free again"
        link.says(Record(ACK, number=4, value=4 * size))
        assert [record.payload for record in link.got()] == [b"x" * 3000] * 2


def test_messages_for_nobody_here_and_calls_of_the_engine_are_taken_in_order() -> None:
    with linked() as (world, link):
        link.attach()
        (reader,) = world.subscribers(1, b"c")
        link.says(
            message(b"unknown", b"x"),
            message(b"c", b"1"),
            Record(CALL, 7, number=3, name=b"c", payload=b"p"),
            Record(REPLY, flags=ERROR, number=9, payload=b"word"),
            Record(MISSED, number=12, name=b"c"),
            Record(MISSED, flags=OFFSET, number=80, name=b"h"),
            Record(MESSAGE, 2, OFFSET | NO_ECHO, 5, 81, 1700, b"h", b',"id":1', b"\x00"),
            message(b"c", b"2"),
        )
        assert reader.frames() == [(1, b"1"), (1, b"2")]
        assert link.heard == [
            ("call", 7, 3, b"c", b"p"),
            ("reply", 9, b"word", True),
            ("missed", b"c", 12, False),
            ("missed", b"h", 80, True),
            ("sequenced", b"h", 2, b"\x00", b',"id":1', 5, False, 81, 1700),
        ]


def test_acks_are_told_to_the_python_side_only_while_it_waits() -> None:
    with linked() as (world, link):
        link.attach()
        numbers = [world.reactor.link_publish(b"c", 1, b"x", b"", 0, True) for _ in range(3)]
        assert numbers == [1, 2, 3]
        assert world.reactor.link_under_way == 3
        size = len(link.got()[0].pack())
        link.says(Record(ACK, number=1, value=size))
        assert link.heard == []
        world.reactor.link_wait(True)
        link.says(Record(ACK, number=2, value=2 * size), Record(ACK, number=3, value=3 * size))
        assert link.heard == [("acked", 2), ("acked", 3)]
        assert world.reactor.link_under_way == 0


def test_what_is_said_at_the_end_of_a_turn_does_not_wait_for_the_next_event() -> None:
    with linked() as (world, link):
        link.attach()
        peer = world.open()

        def left(conn: int) -> None:
            world.turns_asked.clear()
            world.reactor.link_call(6, 0, b"c", b"left")

        world.when_ended = left
        peer.close()
        world.turn_until(lambda: world.ends)
        assert world.turns_asked, "a turn is asked for"
        assert [record.payload for record in link.got()] == [b"left"]


def test_a_fan_out_larger_than_a_turn_is_finished_in_the_next_ones_in_order() -> None:
    with linked() as (world, link):
        link.attach()
        readers = world.subscribers(200, b"c")
        data = b"".join(message(b"c", b"%04d" % number).pack() for number in range(1000))
        while data:
            try:
                data = data[link.engine.send(data) :]
            except BlockingIOError:
                world.turns(1)
        world.turn_until(lambda: all(len(reader.read()) == 6 * 1000 for reader in readers))
        for reader in readers:
            assert [payload for _, payload in reader.frames()] == [b"%04d" % number for number in range(1000)]


def test_records_that_a_turn_had_no_time_for_do_not_wait_for_the_next_event() -> None:
    with linked() as (world, link):
        link.attach()
        tokens: list[int] = []

        def slow(verb: int, token: int, name: bytes, payload: bytes) -> None:
            until = time.perf_counter() + 0.0002
            while time.perf_counter() < until:
                pass
            tokens.append(token)

        link.on_call = slow  # type: ignore[method-assign]
        link.engine.send(b"".join(Record(CALL, 1, number=number).pack() for number in range(300)))
        world.turns(1)
        assert 0 < len(tokens) < 300
        while world.turns_asked:
            world.turns_asked.clear()
            world.turns(1)
        assert tokens == list(range(300))


def test_input_that_waits_has_its_share_of_a_turn_beside_fan_outs_that_never_end() -> None:
    with linked() as (world, link):
        world.reactor.expect_link(link, 1 << 20)
        link.attach()
        world.subscribers(800, b"c")
        (publisher,) = world.publishers(1, b"other")
        flood = b"".join(message(b"c", b"x").pack() for _ in range(3000))
        link.engine.send(flood)
        world.turns(1)
        publisher.send(frame(TEXT, b"y") * 2500)  # three passes: from the second on it waits in our memory
        for _ in range(8):
            world.turns(1)
        assert world.counter("n_published") == 2500
        assert world.turns_asked, "the fan-outs are not over"


def test_many_deliveries_of_channels_with_history_end_a_turn_like_those_of_live_ones() -> None:
    with linked() as (world, link):
        link.attach()
        world.subscribers(800, b"h")
        taken: list[int] = []

        def sequenced(
            name: bytes, kind: int, payload: bytes, extra: bytes, conn: int, echo: bool, offset: int, time_ms: int
        ) -> None:
            for _ in range(10):  # as when the answer to a join has filled a hole
                world.reactor.publish_kept(0, name, kind, payload, b"", True, len(taken) + 1, 1)
            taken.append(0)

        link.on_sequenced = sequenced  # type: ignore[method-assign]
        record = Record(MESSAGE, 1, OFFSET, number=1, name=b"h", payload=b"x")
        link.engine.send(record.pack() * 200)
        world.turns(1)
        assert 0 < len(taken) < 64, "the clock is looked at after as much work as elsewhere"
        world.turn_until(lambda: len(taken) == 200)


@pytest.mark.parametrize(
    "broken",
    [
        Record(ACK, number=1).pack(),  # nothing was sent
        Record(PUBLISH, name=b"c").pack(),
        Record(0).pack(),
        Record(MESSAGE).pack(size=8),
        Record(MESSAGE).pack(payload_size=0xFFFFFFFF),
        b"\xff" * 4096,
    ],
    ids=["ack", "publish", "no type", "size", "payload", "garbage"],
)
def test_what_no_engine_says_ends_the_link_and_leaves_the_clients(broken: bytes) -> None:
    with linked() as (world, link):
        link.attach()
        (reader,) = world.subscribers(1, b"c")
        link.engine.send(message(b"c", b"before").pack() + broken + message(b"c", b"after").pack())
        world.turns(3)
        assert link.unknown == []
        assert not world.reactor.linked
        assert reader.frames() == [(1, b"before")]
        world.errors.clear()


def test_a_handler_that_fails_ends_the_link_as_garbage_does() -> None:
    with linked() as (world, link):
        link.attach()
        link.fails = True
        link.says(Record(CALL, 1))
        assert link.unknown == []
        assert [str(error) for error in world.errors] == ["the handler fails"]


def test_an_end_names_the_raw_publishers_whose_messages_nobody_knows_of() -> None:
    with linked() as (world, link):
        link.attach()
        early, late, idle = (world.publishers(1, b"c")[0] for _ in range(3))
        early.send(frame(TEXT, b"1"))
        (first,) = link.got()
        link.says(Record(ACK, number=1, value=len(first.pack())))
        late.send(frame(TEXT, b"2"))
        assert len(link.got()) == 1
        link.engine.close()
        world.turns(2)
        assert link.unknown == [late.conn]
        assert idle.conn != late.conn


def test_without_a_link_a_raw_message_is_given_back_and_after_a_new_one_it_is_taken() -> None:
    with linked() as (world, link):
        refused: list[int] = []
        world.when_unpublished = refused.append
        (publisher,) = world.publishers(1, b"c")
        publisher.send(frame(TEXT, b"too early"))
        world.turns(2)
        assert refused == [publisher.conn]
        assert world.reactor.link_publish(b"c", 1, b"x", b"", 0, True) == 0
        assert world.reactor.link_call(1, 1, b"", b"") is False
        link.attach()
        publisher.send(frame(TEXT, b"in time"))
        assert [record.payload for record in link.got()] == [b"in time"]
        with pytest.raises(RuntimeError):
            link.attach()


def test_publishers_that_waited_for_credit_go_on_when_the_link_ends() -> None:
    with linked() as (world, link):
        link.attach()
        refused: list[int] = []
        world.when_unpublished = refused.append
        (publisher,) = world.publishers(1, b"c")
        publisher.send(frame(TEXT, b"x" * 3000) * 6)
        assert len(link.got()) == 4
        link.engine.close()
        world.turns(4)
        assert link.unknown == [publisher.conn]
        assert refused == [publisher.conn] * 2


@given(cuts=st.lists(st.integers(1, 400), max_size=20))
@settings(max_examples=30)
def test_records_cut_anywhere_mean_the_same(cuts: list[int]) -> None:
    with linked() as (world, link):
        link.attach()
        (reader,) = world.subscribers(1, b"c")
        data = b"".join(message(b"c", b"x" * number).pack() for number in range(12))
        for cut in cuts:
            link.engine.send(data[:cut])
            data = data[cut:]
            world.turns(1)
        if data:
            link.engine.send(data)
        world.turn_until(lambda: len(reader.read()) == sum(range(12)) + 12 * 2)
        assert [payload for _, payload in reader.frames()] == [b"x" * number for number in range(12)]


@given(st.binary(max_size=400))
@settings(max_examples=60)
def test_whatever_an_engine_sends_nobody_crashes_and_clients_are_served(data: bytes) -> None:
    with linked() as (world, link):
        link.attach()
        if data:
            link.engine.send(data)
        world.turns(2)
        peer = world.open()
        assert world.reactor.state(peer.conn) == "open"
        world.errors.clear()
