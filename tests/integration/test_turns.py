"""How much one turn does, and who comes first when there is more to do than one turn can: nobody is forgotten.

No test looks at how long anything takes. They count turns, and what had and had not happened when somebody was served.
"""

import select
import time
from collections.abc import Callable

import pytest

from broker.native._connection import CAUSES
from tests.client_frames import PING, PONG, TEXT, frame
from tests.integration.turning import Peer, Turning, ready, turning

BURST = frame(TEXT, b"0123456789", mask=b"\0\0\0\0")
ROOMY = {"send_queue_bytes": 1 << 28, "send_queue_messages": 1 << 23, "memory_bytes": 1 << 34, "ping_seconds": 1000.0}


class Crowd:
    """Publishers that have sent much more than one turn can deliver to their subscribers."""

    def __init__(self, turning: Turning, subscribers: int = 100, publishers: int = 60, messages: int = 640) -> None:
        self.turning = turning
        turning.subscribers(subscribers, b"crowded")
        self.publishers = turning.publishers(publishers, b"crowded")
        self.messages = messages
        self.sent = 0

    def publish(self) -> None:
        """Everybody sends."""
        for peer in self.publishers:
            peer.send(BURST * self.messages)
        self.sent += self.messages * len(self.publishers)

    @property
    def waiting(self) -> int:
        """Messages sent that the broker has not handled."""
        return self.sent - self.turning.counter("n_messages_received")


def in_order_of_arrival(peers: list[Peer]) -> Callable[[], list[Peer]]:
    """A function that returns the peers that something has arrived for, the earliest first.

    An epoll that nobody has asked yet lists what becomes ready in the order in which it does.
    """
    of = {peer.sock.fileno(): peer for peer in peers}
    poll = select.epoll()
    for fd in of:
        poll.register(fd, select.EPOLLIN)

    def arrived() -> list[Peer]:
        with poll:
            return [of[fd] for fd, _ in poll.poll(0, len(of))]

    return arrived


# What one turn does.


def test_a_crowd_of_publishers_does_not_hold_the_loop_until_all_of_them_are_served() -> None:
    with turning(**ROOMY) as world:
        crowd = Crowd(world)
        crowd.publish()
        world.turns(1)
        assert 0 < crowd.sent - crowd.waiting < crowd.sent // 2
        assert world.turns_asked or ready(world.reactor), "the loop will come again"
        world.turn_until(lambda: not crowd.waiting)
        assert world.counter("n_offered") == crowd.sent * 100


def test_a_ping_is_answered_at_once_beside_input_that_waits() -> None:
    with turning(**ROOMY, read_pass_messages=256) as world:
        bystander = world.open()
        crowd = Crowd(world, messages=3000)
        crowd.publish()
        before = world.counter("n_bytes_read")
        world.turn_until(lambda: world.counter("n_bytes_read") - before == crowd.sent * len(BURST), "all of it waits")
        waiting = crowd.waiting
        assert waiting > crowd.sent // 2
        world.turns(1)
        assert 256 <= waiting - crowd.waiting < 60 * 256, "not a pass for each in one turn"
        bystander.send(frame(PING, b"me"))
        assert world.turn_until(bystander.read) <= 3
        assert bystander.frames() == [(PONG, b"me")]


@pytest.mark.parametrize("place", [0, 10, 20])
def test_a_client_among_others_who_never_stop_has_its_turn_wherever_epoll_lists_it(place: int) -> None:
    with turning(ping_seconds=1000.0) as world:
        busy = [world.open() for _ in range(place)]
        bystander = world.open()
        busy += [world.open() for _ in range(20 - place)]
        of = {peer.conn: peer for peer in busy}
        burst = frame(TEXT, b"a turn's worth") + frame(TEXT, b"of work") * 100

        def message(conn: int, payload: bytes) -> bool:
            if payload == b"a turn's worth":
                until = time.monotonic() + 0.006
                while time.monotonic() < until:
                    pass
                of[conn].send(burst)
            return False

        world.when_message = message
        for peer in busy:
            peer.send(burst)
        bystander.send(frame(PING, b"me"))
        while not bystander.read():
            world.turns(1)
            taken = world.messages.count(b"a turn's worth")
            assert taken <= 2 * len(busy), "each turn begins where the one before had to stop"
        world.when_message = lambda conn, payload: False


def test_a_message_is_not_held_up_by_a_flood_of_pings() -> None:
    with turning() as world:
        subscriber = world.subscribers(1, b"news")[0]
        flooders = [world.open() for _ in range(300)]
        arrived = in_order_of_arrival([subscriber, *flooders])
        for peer in flooders:
            peer.send(frame(PING, b"x"))
        world.hub.publish(b"news", 1, b"hello")
        world.turn_until(lambda: ready(subscriber.sock))
        assert arrived().index(subscriber) < 3, "every second write is not an answer"
        assert subscriber.frames() == [(TEXT, b"hello")]
        world.turn_until(lambda: all(peer.read() for peer in flooders))


# Deadlines.


def stand_still(seconds: float) -> None:
    """The process gets no time, as under SIGSTOP: `Turning.advance` would run deadlines, and only turns do here."""
    time.sleep(seconds)


def test_who_answered_in_time_is_not_cut_because_the_loop_stood_still() -> None:
    with turning(ping_seconds=1000.0, handshake_seconds=100.0, pong_seconds=1.0) as world:
        # More than one poll reports, and each has something to say besides its pong.
        peers = [world.open() for _ in range(540)]
        world.reactor.advance(1000.1)
        world.turn_until(lambda: all(peer.read() for peer in peers))
        for peer in peers:
            assert peer.frames() == [(PING, b"")]
            peer.send(frame(PONG) + frame(TEXT, b"x") * 5)
        stand_still(1.2)
        world.turn_until(lambda: len(world.messages) == 5 * len(peers))
        world.turns(3)
        assert [world.reactor.state(peer.conn) for peer in peers] == ["open"] * len(peers)


def test_an_overload_that_never_ends_does_not_put_deadlines_off_for_ever() -> None:
    with turning(**ROOMY, handshake_seconds=0.05) as world:
        crowd = Crowd(world)
        silent = world.connect()
        world.turn_until(lambda: world.reactor.connections == 161)

        def late() -> bool:
            if crowd.waiting < crowd.messages * 40:
                crowd.publish()
            silent.read()
            return silent.ended

        world.turn_until(late, "a handshake that never begins is given up")
        assert crowd.waiting


def test_a_publisher_that_streams_is_not_cut_for_a_message_that_was_completed_long_ago() -> None:
    with turning(message_seconds=30.0, ping_seconds=1000.0) as world:
        publisher = world.open()
        message = frame(TEXT, b"one of many")
        publisher.send(message[:5])
        for i in range(1, 6):  # every read ends inside a message
            world.turns(2)
            world.reactor.advance(20)
            publisher.send(message[5:] + message[:5])
            world.turn_until(lambda i=i: len(world.messages) == i)  # type: ignore[misc]
        assert world.reactor.state(publisher.conn) == "open"
        world.reactor.advance(30.1)
        world.turn_until(lambda: world.reactor.state(publisher.conn) != "open", "the last one is never completed")
        publisher.close()
        world.turn_until(lambda: world.ends)
        assert [cause for _, cause in world.ends] == [CAUSES.index("message_timeout")]


def test_a_client_that_left_while_its_command_waits_is_noticed() -> None:
    with turning(ping_seconds=25.0, pong_seconds=10.0) as world:
        client = world.open()
        world.join([client], b"news")
        world.when_message = lambda conn, payload: True  # and nothing is resumed
        client.send(frame(TEXT, b"a command that is never done"))
        world.turn_until(lambda: world.messages)
        world.reactor.advance(25.1)
        world.turn_until(client.read)
        assert client.frames() == [(PING, b"")]
        client.close()
        for _ in range(3):
            world.reactor.advance(25.1)
            world.turns(4)
        assert world.reactor.connections == 0
        assert world.counter("g_subscriptions") == 0
