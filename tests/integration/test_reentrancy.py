"""Verbs called from inside of the reactor's own callbacks, and wrong calls: they cost one connection at most.

The gateway calls most verbs from callbacks; an authority or an engine that somebody writes may call any of them.
"""

import gc
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from broker.config.schema import Limits
from broker.gateway.refusals import CAUSE_OF, native_closes
from broker.native import _counters
from broker.native._connection import CAUSES
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.native._request import Request
from tests.client_frames import CLOSE, PING, PONG, TEXT, close, frame
from tests.integration.turning import (
    ANY_PAYLOAD,
    DISCONNECT,
    RAW,
    REQUEST,
    TEXT_KIND,
    TOO_SLOW,
    Peer,
    Turning,
    accept,
    turning,
)

GOING_AWAY = CAUSE_OF["going_away"]
NOT_PERMITTED = CAUSE_OF["not_permitted"]
BYE = (1001).to_bytes(2) + b"bye"
NOTHING_MORE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
INTERNAL_ERROR = native_closes()[CAUSES.index("callback_error")]


# The 101 is queued, not written, when `open` returns.


def fails_after_open(world: Turning, conn: int, request: Request) -> None:
    world.let_in(conn, request)
    raise RuntimeError("after open")


def closes_after_open(world: Turning, conn: int, request: Request) -> None:
    world.let_in(conn, request)
    assert world.reactor.close(conn, BYE, GOING_AWAY)


def drains_after_open(world: Turning, conn: int, request: Request) -> None:
    world.let_in(conn, request)
    assert world.reactor.close_after(conn, b"for JSON", BYE, GOING_AWAY)


def ends_after_open(world: Turning, conn: int, request: Request) -> None:
    world.let_in(conn, request)
    assert world.reactor.close_all(BYE, GOING_AWAY, NOTHING_MORE) == 1


def ends_after_hold(world: Turning, conn: int, request: Request) -> None:
    assert world.reactor.hold(conn, accept(request), None, b"\x11\x94not you", NOT_PERMITTED, 1.0)
    assert world.reactor.close_all(BYE, GOING_AWAY, NOTHING_MORE) == 1


@pytest.mark.parametrize(
    ("requested", "payload"),
    [
        (fails_after_open, INTERNAL_ERROR),
        (closes_after_open, BYE),
        (drains_after_open, BYE),
        (ends_after_open, BYE),
        (ends_after_hold, BYE),
    ],
)
@pytest.mark.parametrize("early", [b"", frame(TEXT, b"early")], ids=["request", "request and message"])
def test_who_is_let_in_and_closed_at_once_reads_both(
    requested: Callable[[Turning, int, Request], None], payload: bytes, early: bytes
) -> None:
    with turning() as world:
        world.when_requested = lambda conn, request: requested(world, conn, request)
        client = world.connect(REQUEST + early)
        world.turn_until(lambda: b"\x88" in client.read(), "a Close")
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frames() == [(CLOSE, payload)]


@pytest.mark.parametrize("same_turn", [True, False])
def test_a_callback_may_end_connections_that_have_sent_nothing(same_turn: bool) -> None:
    with turning() as world:
        ended: list[int] = []

        def requested(conn: int, request: Request) -> None:
            world.let_in(conn, request)
            ended.append(world.reactor.close_all(BYE, GOING_AWAY, NOTHING_MORE))

        world.when_requested = requested
        before = [world.connect() for _ in range(3)]
        asking, silent = world.connect(), world.connect()
        if not same_turn:
            world.turns(2)
        asking.send(REQUEST)
        world.turn_until(lambda: b"\x88" in asking.read(), "a Close")
        assert sum(ended) >= 4
        world.turn_until(lambda: all(peer.read() or peer.ended for peer in before))
        assert [(bytes(peer.received), peer.was_reset) for peer in before] == [(b"", False)] * 3
        assert not silent.was_reset


def test_who_is_let_in_and_must_go_for_want_of_memory_reads_both() -> None:
    with turning(memory_bytes=1 << 20, send_queue_bytes=1 << 24) as world:
        world.subscribers(1, b"news")

        def requested(conn: int, request: Request) -> None:
            world.let_in(conn, request)
            for _ in range(20):  # the reader is not blocked, so the newcomer's unfinished input has to go
                world.reactor.publish(conn, b"news", TEXT_KIND, b"x" * 60_000, b"", echo=True)

        world.when_requested = requested
        client = world.connect(REQUEST + frame(TEXT, b"y" * 30_000)[:20_000])
        world.turn_until(lambda: b"\x88" in client.read(), "a Close")
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frames() == [(CLOSE, native_closes()[CAUSES.index("memory")])]


# A Close while a command waits.


def waiting(world: Turning, behind: bytes) -> Peer:
    """A client whose command waits; `behind` was read together with it."""
    world.when_message = lambda conn, payload: payload == b"wait"
    client = world.open()
    client.send(frame(TEXT, b"wait") + behind)
    world.turn_until(lambda: world.messages == [b"wait"])
    return client


def test_the_close_behind_a_waiting_command_ends_the_session_cleanly_when_the_server_ends() -> None:
    with turning() as world:
        client = waiting(world, frame(TEXT, b"next") + close(1000))
        assert world.reactor.close_all(BYE, GOING_AWAY, NOTHING_MORE) == 1
        world.turn_until(lambda: client.read() and client.ended)
        assert not client.was_reset
        assert client.frames() == [(CLOSE, BYE)]
        assert world.messages == [b"wait"], "after our Close nothing is taken"
        assert world.counter("n_messages_discarded") == 1


def test_bytes_read_behind_a_waiting_command_come_before_those_that_arrive_after_our_close() -> None:
    with turning() as world:
        cut = frame(TEXT, b"a message in two reads")
        client = waiting(world, cut[:9])
        assert world.reactor.close(world.requests[0], BYE, GOING_AWAY)
        world.turns(2)
        client.send(cut[9:] + close(1001))
        world.turn_until(lambda: client.read() and client.ended)
        assert not client.was_reset
        assert client.frames() == [(CLOSE, BYE)]
        assert world.counter(f"n_closed_{GOING_AWAY}") == 1, "not a protocol error of bytes out of order"


# What would free what is in use.


def test_a_callback_that_makes_a_turn_makes_none() -> None:
    with turning() as world:
        first, second = world.open(), world.open()

        def message(conn: int, payload: bytes) -> bool:
            if payload == b"go":
                second.reset()
                world.reactor.close(conn, BYE, GOING_AWAY)
                first.reset()
                world.turns(3)
                assert world.reactor.connections == 2, "nobody is buried while a callback runs"
            return False

        world.when_message = message
        first.send(frame(TEXT, b"go") + frame(TEXT, b"after") * 5)
        world.turn_until(lambda: world.reactor.connections == 0)
        assert world.messages == [b"go"]
        assert world.errors == []


def test_a_callback_that_destroys_the_reactor_is_told_so_and_only_its_connection_goes() -> None:
    with turning() as world:
        client, other = world.open(), world.open()

        def message(conn: int, payload: bytes) -> bool:
            world.reactor.destroy()
            return False

        world.when_message = message
        client.send(frame(TEXT, b"go") * 5)
        world.turn_until(lambda: b"\x88" in client.read(), "a Close")
        assert client.frames() == [(CLOSE, INTERNAL_ERROR)]
        assert [str(error) for error in world.errors] == ["destroy inside a turn"]
        assert len(world.messages) == 1
        other.send(frame(PING, b"still here"))
        world.turn_until(other.read)
        assert other.frames() == [(PONG, b"still here")]


def test_a_callback_that_stops_accepting_leaves_its_own_input_alone() -> None:
    with turning() as world:
        client = world.open()

        def message(conn: int, payload: bytes) -> bool:
            if payload == b"stop":
                world.connect(REQUEST + frame(TEXT, b"Z" * 3000))
                world.reactor.stop_accepting()
            return False

        world.when_message = message
        behind = [b"%d" % i for i in range(200)]
        client.send(frame(TEXT, b"stop") + b"".join(frame(TEXT, each) for each in behind))
        world.turn_until(lambda: len(world.messages) == 201)
        assert world.messages == [b"stop", *behind]
        assert not world.reactor.accepting


def test_a_turn_made_while_the_last_clients_are_accepted_makes_none() -> None:
    with turning() as world:

        def requested(conn: int, request: Request) -> None:
            world.let_in(conn, request)
            world.peers[-1].reset()
            world.turns(3)
            assert world.reactor.state(conn) == "open", "nobody is buried while a callback runs"

        world.when_requested = requested
        world.connect(REQUEST + frame(TEXT, b"early"))
        world.reactor.stop_accepting()
        assert len(world.requests) == 1
        assert world.errors == []
        world.turn_until(lambda: world.reactor.connections == 0)


def test_verbs_on_others_from_the_callback_of_an_end_find_everything_in_order() -> None:
    with turning() as world:
        peers = world.subscribers(4, b"news")

        def ended(conn: int) -> None:
            for other in peers:
                world.reactor.close(other.conn, BYE, GOING_AWAY)
                world.reactor.unsubscribe(other.conn, b"news")
            assert world.reactor.publish(conn, b"news", TEXT_KIND, b"gone", b"", echo=True) == 0
            assert world.reactor.state(conn) is None

        world.when_ended = ended
        peers[0].reset()
        world.turn_until(lambda: all(b"\x88" in peer.read() for peer in peers[1:]), "a Close each")
        assert [peer.frames() for peer in peers[1:]] == [[(CLOSE, BYE)]] * 3


# Wrong calls.


def stalled_reader(world: Turning, payload: bytes = b"x" * 60_000) -> Peer:
    """A reader that has been offered more than its queue holds."""
    reader = world.open(receive_buffer=4096)
    world.join([reader], b"news")
    while not world.counter("n_discarded"):
        world.hub.publish(b"news", TEXT_KIND, payload)
        world.turns(1)
    return reader


@pytest.mark.parametrize("wrong", [None, "text", 4208])
def test_a_callback_that_has_no_close_for_a_slow_reader_costs_that_reader_the_text_only(wrong: object) -> None:
    with turning(send_queue_bytes=1 << 17, read_pass_messages=1) as world:
        others = [world.open() for _ in range(3)]
        world.when_too_slow = lambda conn: cast(bytes, wrong)
        for other in others:
            other.send(frame(TEXT, b"one of many") * 5)
        reader = stalled_reader(world)
        world.turn_until(lambda: b"\x88" in reader.read()[-128:], "a Close")
        assert reader.frames()[-1] == (CLOSE, native_closes()[CAUSES.index("too_slow")])
        assert [type(error) for error in world.errors] == [TypeError]
        world.turn_until(lambda: len(world.messages) == 15)
        world.turn_until(lambda: world.reactor.settled)


def test_a_cause_that_no_counter_has_is_refused_and_nothing_happens() -> None:
    with turning() as world:
        client = world.open()
        undecided: list[tuple[int, Request]] = []
        world.when_requested = lambda conn, request: undecided.append((conn, request))
        world.connect(REQUEST)
        world.turn_until(lambda: undecided)
        conn, request = undecided[0]
        table = bytes(world.table)
        reactor = world.reactor
        for cause in (64, 200, 255):
            calls: list[Callable[[], object]] = [
                lambda c=cause: reactor.close(client.conn, BYE, c),  # type: ignore[misc]
                lambda c=cause: reactor.close_all(BYE, c, NOTHING_MORE),  # type: ignore[misc]
                lambda c=cause: reactor.close_after(client.conn, b"", BYE, c),  # type: ignore[misc]
                lambda c=cause: reactor.respond(conn, NOTHING_MORE, c),  # type: ignore[misc]
                lambda c=cause: reactor.turn_away(conn, NOTHING_MORE, c),  # type: ignore[misc]
                lambda c=cause: reactor.hold(conn, accept(request), None, BYE, c, 1.0),  # type: ignore[misc]
            ]
            for call in calls:
                with pytest.raises(ValueError, match=f"cause {cause}"):
                    call()
        assert bytes(world.table) == table
        assert (reactor.state(client.conn), reactor.state(conn)) == ("open", "deciding")


def test_none_where_bytes_belong_is_a_type_error() -> None:
    with turning() as world:
        conn = world.open().conn
        world.reactor.subscribe(conn, b"news", DISCONNECT, ANY_PAYLOAD, True, True)
        none: Any = None
        reactor = world.reactor
        calls: list[Callable[[], object]] = [
            lambda: reactor.open(conn, none, None, RAW),
            lambda: reactor.hold(conn, none, None, BYE, GOING_AWAY, 1.0),
            lambda: reactor.hold(conn, b"accept", None, none, GOING_AWAY, 1.0),
            lambda: reactor.respond(conn, none, GOING_AWAY),
            lambda: reactor.send(conn, none),
            lambda: reactor.close(conn, none, GOING_AWAY),
            lambda: reactor.close_after(conn, none, BYE, GOING_AWAY),
            lambda: reactor.close_after(conn, b"", none, GOING_AWAY),
            lambda: reactor.turn_away(conn, none, GOING_AWAY),
            lambda: reactor.close_all(none, GOING_AWAY, NOTHING_MORE),
            lambda: reactor.close_all(BYE, GOING_AWAY, none),
            lambda: reactor.subscribe(conn, none, DISCONNECT, ANY_PAYLOAD, True, True),
            lambda: reactor.unsubscribe(conn, none),
            lambda: reactor.publish(conn, none, TEXT_KIND, b"", b"", True),
            lambda: reactor.publish(conn, b"news", TEXT_KIND, none, b"", True),
            lambda: reactor.publish(conn, b"news", TEXT_KIND, b"", none, True),
            lambda: world.hub.publish(none, TEXT_KIND, b""),
            lambda: world.hub.publish(b"news", TEXT_KIND, none),
            lambda: world.hub.publish(b"news", TEXT_KIND, b"", none),
        ]
        for call in calls:
            with pytest.raises(TypeError):
                call()
        assert reactor.state(conn) == "open"
        assert world.counter("n_published") == 0


def test_nobody_is_subscribed_before_it_is_let_in_or_after_it_was_told_to_go() -> None:
    with turning() as world:
        undecided: list[tuple[int, Request]] = []
        world.when_requested = lambda conn, request: undecided.append((conn, request))
        client = world.connect(REQUEST)
        world.turn_until(lambda: undecided)
        conn, request = undecided[0]
        join = (conn, b"news", DISCONNECT, ANY_PAYLOAD, True, True)
        assert not world.reactor.subscribe(*join)
        world.hub.publish(b"news", TEXT_KIND, b"too early")
        world.let_in(conn, request)
        assert world.reactor.subscribe(*join)
        assert not world.reactor.subscribe(*join), "joined already"
        world.reactor.close(conn, BYE, GOING_AWAY)
        assert not world.reactor.subscribe(*join)
        world.turn_until(lambda: b"\x88" in client.read())
        assert client.head().startswith(b"HTTP/1.1 101 ")
        assert client.frames() == [(CLOSE, BYE)]
        assert world.hub.names() == []


def test_a_reactor_without_a_close_for_each_cause_is_not_built() -> None:
    table = bytearray(8 * _counters.SIZE)
    hub = Hub(table, 1 << 20, 1 << 15, 1 << 28)
    with pytest.raises(ValueError, match=f"{len(CAUSES) - 1} close payloads for {len(CAUSES)} causes"):
        Reactor(hub, cast(Any, None), native_closes()[:-1], cast(Any, None), **settings())
    gc.collect()
    assert hub.memory == 0


# Reactors that end in another order than they began.


def settings() -> dict[str, Any]:
    return msgspec.structs.asdict(Limits(max_connections=10))


def abandoned() -> tuple[Hub, Peer]:
    """What is left of a reactor that nobody destroys: its hub, and a peer that something is queued for."""
    world = Turning()
    reader = world.subscribers(1, b"news")[0]
    world.hub.publish(b"news", TEXT_KIND, b"queued, never written")
    world.listener.close()
    return world.hub, reader


def test_a_reactor_that_is_collected_with_everything_open_leaves_its_hub_usable() -> None:
    hub, reader = abandoned()
    gc.collect()  # reactor and handler are a cycle; an error in it would be unraisable, which fails the test
    assert reader.read() == b""
    assert hub.publish(b"nobody", TEXT_KIND, b"x") == 0
    reader.close()


def test_a_reactor_and_its_hub_are_collected_together_with_everything_open() -> None:
    # By type: objects that tests of others left behind may answer isinstance with an error (a lazy one of Django does).
    before = sum(issubclass(type(each), Reactor | Hub) for each in gc.get_objects())
    reader = abandoned()[1]
    gc.collect()
    gc.collect()
    assert sum(issubclass(type(each), Reactor | Hub) for each in gc.get_objects()) == before
    reader.close()


def test_the_end_of_an_old_reactor_does_not_disarm_the_new_one_of_the_same_hub() -> None:
    with turning(send_queue_bytes=1 << 17) as world:
        old = Reactor(world.hub, world, native_closes(), world.turns_asked.append, **settings())
        world.reactor.destroy()
        world.reactor = Reactor(world.hub, world, native_closes(), world.turns_asked.append, **settings())
        world.reactor.listen(world.listener.fileno(), 65536)
        old.destroy()
        del old
        gc.collect()
        reader = stalled_reader(world)
        world.turn_until(lambda: b"\x88" in reader.read()[-128:], "a Close: no silent hole")
        assert reader.frames()[-1] == (CLOSE, TOO_SLOW)
