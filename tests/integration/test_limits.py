"""What strangers may hold of a worker: places, sockets, memory; and what is owed to those who were accepted."""

from broker.gateway.refusals import native_closes
from broker.native._connection import CAUSES
from tests.client_frames import BINARY, CLOSE, PING, PONG, TEXT, frame, header
from tests.integration.turning import REQUEST, Peer, Turning, turning
from tests.server_frames import frame as sent

MEMORY = 1 << 20
LITTLE = {"memory_bytes": MEMORY, "send_queue_bytes": MEMORY, "ping_seconds": 1000.0, "message_seconds": 300.0}
MEMORY_CLOSE = native_closes()[CAUSES.index("memory")]


def send_in_turns(world: Turning, peer: Peer, data: bytes) -> None:
    """More than one read takes, handed over as the broker takes it."""
    for at in range(0, len(data), 16384):
        if not peer.ended:
            peer.send(data[at : at + 16384])
            world.turns(1)


# Memory.


def test_as_many_input_hogs_go_as_the_memory_asks_for_and_nobody_else() -> None:
    with turning(**LITTLE, close_seconds=300.0) as world:
        bystander = world.open()
        hogs = [world.open() for _ in range(40)]
        for hog in hogs:  # none of them answers its Close, or leaves
            send_in_turns(world, hog, header(BINARY, 60_000) + b"x" * 36_000)
        world.turn_until(lambda: world.hub.memory <= MEMORY, "within the memory, while the hogs are still connected")
        assert world.reactor.connections == 41
        evicted = [hog for hog in hogs if hog.read()]
        assert 10 < len(evicted) == world.counter("n_memory_evictions") < 40
        assert all(hog.frames() == [(CLOSE, MEMORY_CLOSE)] for hog in evicted)
        bystander.send(frame(PING, b"still here"))
        world.turn_until(bystander.read)
        assert bystander.frames() == [(PONG, b"still here")]


def test_requests_that_never_end_are_within_the_memory_of_the_worker() -> None:
    with turning(**LITTLE) as world:
        bystander = world.open()
        head = b"GET / HTTP/1.1\r\nX: " + b"a" * 15_000
        for _ in range(200):
            world.connect(head)
            world.turns(2)
            assert world.hub.memory <= MEMORY + 2 * 16_384
        assert world.counter("n_memory_evictions") >= 100
        bystander.send(frame(TEXT, b"still here"))
        world.turn_until(lambda: world.messages == [b"still here"])


def test_input_that_waits_for_a_command_is_within_the_memory_of_the_worker() -> None:
    with turning(**LITTLE) as world:
        world.when_message = lambda conn, payload: True  # and nothing is resumed
        for _ in range(60):
            client = world.open()
            client.send(frame(TEXT, b"wait") + frame(TEXT, b"x" * 30_000))
            world.turns(2)
            assert world.hub.memory <= MEMORY + 2 * 65_536
        assert world.counter("n_memory_evictions") >= 20


def test_a_session_that_was_given_up_gives_its_input_back_before_its_peer_leaves() -> None:
    with turning(message_seconds=30.0, ping_seconds=1000.0) as world:
        idle = world.hub.memory
        client = world.open()
        send_in_turns(world, client, frame(BINARY, b"x" * 50_000, fin=False))
        world.turn_until(lambda: world.hub.memory > idle + 50_000)
        world.reactor.advance(30.1)
        world.turn_until(client.read)
        assert client.frames() == [(CLOSE, native_closes()[CAUSES.index("message_timeout")])]
        world.turns(1)
        assert world.reactor.connections == 1
        assert world.hub.memory == idle


def test_a_burst_of_answers_does_not_cut_a_client_whose_socket_has_room() -> None:
    with turning(send_queue_bytes=1 << 16) as world:
        client = world.open()
        # One write takes 64 pieces, about half of these; and the last is nearly a queue by itself.
        answers = [b"a", b"b" * 1024] * 55 + [b"c" * 60_000]

        def message(conn: int, payload: bytes) -> bool:
            assert all(world.reactor.send(conn, answer) for answer in answers)
            return False

        world.when_message = message
        client.send(frame(TEXT, b"go"))
        whole = b"".join(sent(TEXT, answer) for answer in answers)
        world.turn_until(lambda: len(client.read()) == len(whole))
        assert client.read() == whole


# Places.


def test_a_crowd_before_a_full_worker_holds_a_bounded_number_of_sockets() -> None:
    with turning(max_connections=10) as world:
        members = [world.open() for _ in range(10)]
        crowd = []
        for _ in range(200):
            crowd.append(world.connect(REQUEST[:-2]))  # none of them leaves
            world.turns(2)
            assert world.reactor.connections <= 10 + 32
        world.turn_until(lambda: world.counter("n_accepted") == 210)
        told = [peer for peer in crowd if peer.read().startswith(b"HTTP/1.1 503 ")]
        assert len(told) == 32
        assert all(peer.ended for peer in crowd)
        assert [peer.was_reset for peer in crowd].count(True) == 168
        assert world.counter("n_refused_full") == 200
        for member in members:
            member.send(frame(PING, b"in"))
        world.turn_until(lambda: all(member.read() for member in members))


def test_everybody_in_the_accept_queue_is_taken_before_a_worker_stops_listening() -> None:
    with turning() as world:
        peers = [world.connect(REQUEST) for _ in range(150)]
        world.reactor.stop_accepting()
        world.listener.close()
        assert world.counter("n_accepted") == 150
        world.turn_until(lambda: all(b"\r\n\r\n" in peer.read() for peer in peers), "an answer for each")
        assert all(peer.head().startswith(b"HTTP/1.1 101 ") for peer in peers)


# Time.


def test_what_the_kernel_has_of_an_answer_still_arrives_after_the_linger() -> None:
    with turning(linger_seconds=2.0) as world:
        body = b"z" * 60_000
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + body
        world.when_requested = lambda conn, request: world.reactor.respond(conn, response, 3)
        client = world.connect(REQUEST, receive_buffer=4096)
        world.turn_until(lambda: world.counter("n_bytes_written") == len(response), "all of it is the kernel's")
        for _ in range(3):
            world.reactor.advance(2.1)
            world.turns(2)
        assert world.reactor.connections == 0
        while not client.ended:
            client.read()
        assert not client.was_reset
        assert bytes(client.received) == response


def test_a_client_that_half_closes_reads_all_of_an_answer_that_takes_its_time() -> None:
    with turning() as world:
        # More than sockets hold: most of it is written after the client's end was read.
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + b"z" * 5_000_000
        world.when_requested = lambda conn, request: world.reactor.respond(conn, response, 3)
        client = world.connect(REQUEST, receive_buffer=4096)
        client.half_close()
        world.turns(5)
        assert world.counter("n_bytes_written") < len(response)
        world.turn_until(lambda: client.read() and client.ended)
        assert not client.was_reset
        assert bytes(client.received) == response
