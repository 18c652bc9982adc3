"""Accepting: limits, running out of file descriptors, and what the kernel is told about each socket."""

import asyncio
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from broker.supervisor.listeners import open_listeners
from tests.client_frames import TEXT, frame
from tests.integration.harness import Broker, Client, request, running, turns, wait_until


@pytest.mark.parametrize("broker", [{"limits_max_connections": 3}], indirect=True)
async def test_beyond_the_limit_a_client_is_told_when_to_come_back(broker: Broker) -> None:
    members = [await broker.open("news") for _ in range(3)]
    late = await broker.connect()
    answer = await late.ask(request(offer="news"))
    assert answer.status == 503
    assert int(answer.one("Retry-After")) > 0
    assert answer.one("Connection") == "close"
    assert json.loads(answer.body)["code"] == "overloaded"
    assert await late.closed() == b""
    late.close()
    await broker.ended_for("full")
    assert broker.counter("n_refused_full") == 1
    assert broker.counter("n_requests") == 3, "refused before any work for it"

    for member in members:
        await member.caught_up()
    members[0].close()
    await wait_until(lambda: broker.reactor.connections == 2)
    await (await broker.open("news")).caught_up()


@pytest.mark.parametrize("broker", [{"limits_max_connections": 3}], indirect=True)
async def test_a_crowd_before_a_full_server_changes_nothing_for_those_inside(broker: Broker) -> None:
    members = [await broker.open("news") for _ in range(3)]
    told = 0
    for client in unconnected(broker, 200):
        with suppress(BlockingIOError):
            client.sock.connect(("127.0.0.1", broker.port))
        with suppress(ConnectionResetError):  # those who are told are bounded too
            told += (await client.answer()).status == 503
    assert 32 <= told <= 200
    await members[0].send(frame(TEXT, b"hello"))
    assert [await each.text() for each in members] == ["hello"] * 3
    broker.advance(2.1)
    await broker.ended_for("full", 200)


@pytest.mark.parametrize("broker", [{"limits_max_connections": 3}], indirect=True)
async def test_those_who_were_refused_and_linger_take_no_place_from_others(broker: Broker) -> None:
    members = [await broker.open("news") for _ in range(3)]
    for _ in range(10):
        assert (await (await broker.connect()).answer()).status == 503
    broker.leave(members[1:])
    await wait_until(lambda: broker.counter("g_sessions") == 1)
    for _ in range(2):
        await (await broker.open("news")).caught_up()
    assert (await (await broker.connect()).answer()).status == 503


async def test_a_thousand_clients_that_arrive_at_once_are_all_served(broker: Broker) -> None:
    sockets = [socket.socket() for _ in range(1000)]
    clients = [Client(each) for each in sockets]
    broker.clients += clients
    for each in sockets:
        each.setblocking(False)
        with suppress(BlockingIOError):
            each.connect(("127.0.0.1", broker.port))
    await wait_until(lambda: broker.counter("n_accepted") == 1000, "all accepted")
    for client in clients:
        client.sock.send(request(offer="news|recv"))
    for client in clients:
        assert (await client.answer()).status == 101
    await (await broker.open("news|send")).send(frame(TEXT, b"welcome"))
    assert {await client.text() for client in clients} == {"welcome"}


async def test_a_worker_serves_every_listener_it_is_given() -> None:
    (second,) = await asyncio.to_thread(open_listeners, "127.0.0.1", 0, 4096)
    with closing(second):
        async with running() as broker:
            broker.reactor.listen(second.fileno(), 65536)
            one = await broker.open("news")
            broker.port = second.getsockname()[1]
            other = await broker.open("news")
            await one.send(frame(TEXT, b"across"))
            assert await other.text() == "across"


# Out of file descriptors.

SPARE = 8


@contextmanager
def no_file_descriptor_left() -> Iterator[list[int]]:
    """Every free descriptor is taken; closing one of those yielded gives one back. There are SPARE of them at least."""
    taken: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    # Not `highest + 1`: a process whose descriptors have no holes would have none to give back.
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + SPARE, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        assert len(taken) >= SPARE
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def unconnected(broker: Broker, count: int) -> list[Client]:
    clients = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        clients.append(Client(sock))
    broker.clients += clients
    return clients


async def test_without_file_descriptors_new_clients_wait_and_others_go_on(broker: Broker) -> None:
    good = await broker.open("news")
    waiting = unconnected(broker, 3)
    with no_file_descriptor_left() as taken:
        for client in waiting:
            await client.loop.sock_connect(client.sock, ("127.0.0.1", broker.port))
            await client.send(request(offer="news"))
        await wait_until(lambda: broker.counter("n_accept_pauses") == 1)
        assert not broker.reactor.accepting
        await good.send(frame(TEXT, b"still here"))
        assert await good.text() == "still here"

        broker.advance(0.3)
        await wait_until(lambda: broker.counter("n_accept_pauses") == 2, "tried again, and still nothing is left")
        assert broker.reactor.connections == 1

        for _ in waiting:
            os.close(taken.pop())
        broker.advance(0.3)
        for client in waiting:
            assert (await client.answer()).status == 101
    broker.advance(0.3)
    assert broker.reactor.accepting
    await waiting[0].send(frame(TEXT, b"all here"))
    assert [await client.text() for client in (good, *waiting)] == ["all here"] * 4


async def test_without_file_descriptors_the_loop_does_not_spin(broker: Broker) -> None:
    waiting = unconnected(broker, 1)
    turned = 0

    def turn() -> None:
        nonlocal turned
        turned += 1
        broker.reactor.turn()

    loop = asyncio.get_running_loop()
    loop.add_reader(broker.reactor.fileno(), turn)
    with no_file_descriptor_left():
        await waiting[0].loop.sock_connect(waiting[0].sock, ("127.0.0.1", broker.port))
        await wait_until(lambda: broker.counter("n_accept_pauses") == 1)
        turned, begun = 0, loop.time()
        await turns(200)
        assert turned <= 3 + 3 * (loop.time() - begun) / 0.05, "only the clock ticks, every 50 ms"
    broker.advance(0.3)
    await waiting[0].open("news")


async def test_the_pause_ends_by_itself(broker: Broker) -> None:
    waiting = unconnected(broker, 1)
    with no_file_descriptor_left():
        await waiting[0].loop.sock_connect(waiting[0].sock, ("127.0.0.1", broker.port))
        await wait_until(lambda: broker.counter("n_accept_pauses") == 1)
    await wait_until(lambda: broker.reactor.accepting)
    await waiting[0].open("news")


async def test_who_waited_for_a_file_descriptor_is_not_reset_when_the_worker_ends(broker: Broker) -> None:
    (waiting,) = unconnected(broker, 1)
    with no_file_descriptor_left():
        await waiting.loop.sock_connect(waiting.sock, ("127.0.0.1", broker.port))
        await waiting.send(request(offer="news"))
        await wait_until(lambda: broker.counter("n_accept_pauses") == 1)
    broker.reactor.stop_accepting()
    assert (await waiting.answer()).status == 101


# What an accepted socket inherits.


@contextmanager
def server_end(client: Client) -> Iterator[tuple[int, socket.socket]]:
    """The broker's descriptor of this client's connection, and a duplicate to ask the kernel with."""
    for name in os.listdir("/proc/self/fd"):
        try:
            duplicate = os.dup(int(name))
        except OSError:
            continue
        with closing_fd(duplicate) as each:
            if each is not None and peer(each) == client.sock.getsockname():
                yield int(name), each
                return
    raise AssertionError("no socket of this process leads to the client")


@contextmanager
def closing_fd(fd: int) -> Iterator[socket.socket | None]:
    try:
        each = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        yield None
    else:
        with each:
            yield each


def peer(each: socket.socket) -> object:
    try:
        return each.getpeername()
    except OSError:
        return None


async def test_accepted_sockets_send_small_messages_at_once_and_keep_little_in_the_kernel(broker: Broker) -> None:
    with server_end(await broker.open("news")) as (fd, sock):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 65536
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd), "a child process would keep the connection open"


@pytest.mark.parametrize("broker", [{"limits_notsent_lowat_bytes": 16384}], indirect=True)
async def test_the_operator_says_how_much_the_kernel_may_hold(broker: Broker) -> None:
    with server_end(await broker.open("news")) as (_, sock):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 16384
