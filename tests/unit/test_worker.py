"""How a worker begins and ends: what is still delivered, who is told what, how long it waits.

A real worker in this test's loop; what it does in between is told by the integration tests.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from broker.config.load import load
from broker.engine.base import Publication
from broker.engine.memory import MemoryEngine
from broker.native._counters import NAMES
from broker.node import KIND_TEXT
from broker.supervisor.listeners import open_listeners
from broker.worker import RESERVED_FDS, Worker, max_connections, serve
from tests.client_frames import TEXT, close, frame
from tests.integration.harness import PATIENCE_SECONDS, Client, request, wait_until


@pytest.fixture(autouse=True)
def _same_fd_limit() -> Iterator[None]:
    """A worker raises the limit of this process."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(open_listeners("127.0.0.1", 0, 64)[0]) as listener:
        yield listener


async def connect(listener: socket.socket) -> Client:
    sock = socket.socket()
    sock.setblocking(False)
    client = Client(sock)
    await client.loop.sock_connect(sock, listener.getsockname())
    return client


def started(listener: socket.socket, drain: dict[str, float] | None = None, **limits: object) -> Worker:
    settings = {f"limits.{name}": value for name, value in limits.items()}
    settings |= {f"drain.{name}": value for name, value in (drain or {}).items()}
    worker = Worker(load(None, {"server.dev": True, **settings}), [listener])
    worker.start()
    return worker


async def test_what_was_published_before_the_end_is_delivered_before_the_close(listener: socket.socket) -> None:
    worker = started(listener)
    readers = [await (await connect(listener)).open("news|recv") for _ in range(20)]
    channel = worker.node.channel("news")
    drained = asyncio.create_task(worker.drain(asyncio.Event()))  # its first step comes before the turn that writes
    for number in range(50):
        worker.node.publish(channel, KIND_TEXT, f"message {number}".encode())
    for reader in readers:
        for number in range(50):
            assert await reader.text() == f"message {number}"
        assert await reader.close_frame() == (1001, "code=going_away;the server process ends")
        await reader.send(close(1001))
        assert await reader.closed() == b""
        reader.close()
    await drained


async def test_a_publisher_that_goes_on_does_not_keep_the_worker_from_ending(listener: socket.socket) -> None:
    worker = started(listener, read_pass_messages=1)
    publisher = await (await connect(listener)).open("news")
    drained = asyncio.Event()

    async def publish() -> None:
        while not drained.is_set():
            await publisher.send(frame(TEXT, b"more") * 100)

    async def read() -> None:
        while b"code=going_away" not in publisher.input:
            del publisher.input[:-100]
            assert await publisher.read_more()

    publishing = asyncio.create_task(publish())
    await wait_until(lambda: worker.hub.subscribers(b"news") == 1)
    draining = asyncio.create_task(worker.drain(asyncio.Event()))
    await read()
    drained.set()
    await publishing
    await publisher.send(close(1001))
    await publisher.closed()
    publisher.close()
    await draining


async def test_a_reader_that_stopped_does_not_keep_the_worker_beyond_its_deadlines(listener: socket.socket) -> None:
    worker = started(listener, close_seconds=0.2, linger_seconds=0.2)
    stopped = await (await connect(listener)).open("news|recv")
    channel = worker.node.channel("news")
    while not blocked(worker):
        worker.node.publish(channel, KIND_TEXT, bytes(60_000))
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    before = loop.time()
    await worker.drain(asyncio.Event())
    assert loop.time() - before < 10
    stopped.close()


def blocked(worker: Worker) -> bool:
    with memoryview(worker.counters) as table:
        return bool(table.cast("Q")[NAMES.index("g_blocked")])


async def test_clients_that_have_not_asked_for_anything_yet_do_not_hold_up_the_end(listener: socket.socket) -> None:
    """A browser keeps a connection that it opened in advance, whatever is said on it: only who asked is answered."""
    worker = started(listener, close_seconds=300.0, linger_seconds=300.0)
    begun, *idle = [await connect(listener) for _ in range(3)]
    await begun.send(request()[:20])
    await wait_until(lambda: worker.reactor.connections == 3)
    drained = asyncio.create_task(worker.drain(asyncio.Event()))
    assert (await begun.answer()).status == 503
    assert await begun.closed() == b""
    begun.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await drained
    for client in idle:
        assert await client.closed() == b""
        client.close()


async def test_a_request_that_was_sent_and_not_read_yet_is_answered_at_the_end(listener: socket.socket) -> None:
    worker = started(listener)
    client = await connect(listener)
    await wait_until(lambda: worker.reactor.connections == 1)
    asyncio.get_running_loop().remove_reader(worker.reactor.fileno())
    await client.send(request(offer="news"))
    worker.gateway.close_all("going_away")
    worker.reactor.turn()
    assert (await client.answer()).status == 503
    assert await client.closed() == b""
    client.close()
    await worker.drain(asyncio.Event())


async def test_a_second_wish_to_end_is_obeyed_at_once(listener: socket.socket) -> None:
    worker = started(listener, close_seconds=300.0)
    silent = await (await connect(listener)).open("news")
    hasten = asyncio.Event()
    drained = asyncio.create_task(worker.drain(hasten))
    assert (await silent.close_frame())[0] == 1001
    assert not drained.done()
    hasten.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await drained
    silent.close()


async def test_nobody_connects_to_a_worker_that_ends(listener: socket.socket) -> None:
    worker = started(listener)
    address = listener.getsockname()
    silent = await (await connect(listener)).open("news")
    hasten = asyncio.Event()
    drained = asyncio.create_task(worker.drain(hasten))
    await silent.close_frame()
    late = socket.socket()
    late.setblocking(False)
    with late, pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().sock_connect(late, address)
    hasten.set()
    await drained
    silent.close()


async def test_a_handshake_that_the_kernel_holds_already_is_answered(listener: socket.socket) -> None:
    """A client whose connect succeeded is not reset because the process ends just now."""
    worker = started(listener)
    client = await connect(listener)
    await client.send(request(offer="news"))
    drained = asyncio.create_task(worker.drain(asyncio.Event()))
    answer = await client.answer()
    assert answer.status in (101, 503)
    rest = await client.closed()
    assert answer.status == 503 or b"code=going_away" in rest
    client.close()
    await drained


# The drain in steps.


async def test_a_worker_goes_on_accepting_until_nobody_is_sent_to_it_any_more(listener: socket.socket) -> None:
    worker = started(listener, {"delay_seconds": 300.0})
    hasten = asyncio.Event()
    drained = asyncio.create_task(worker.drain(hasten))
    for _ in range(3):
        client = await (await connect(listener)).open("news")
        await client.caught_up()
        client.close()
    assert not drained.done()
    address = listener.getsockname()
    last = await (await connect(listener)).open("news")
    hasten.set()
    assert await last.close_frame() == (1001, "code=going_away;the server process ends")
    await last.send(close(1001))
    assert await last.closed() == b""
    last.close()
    await drained
    late = socket.socket()
    late.setblocking(False)
    with late, pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().sock_connect(late, address)


async def test_a_delay_that_was_waited_for_elsewhere_is_not_waited_for_again(listener: socket.socket) -> None:
    worker = started(listener, {"delay_seconds": 300.0})
    client = await (await connect(listener)).open("news")
    drained = asyncio.create_task(worker.drain(asyncio.Event(), delay=False))
    assert (await client.close_frame())[0] == 1001
    client.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await drained


async def test_whoever_sends_clients_here_hears_of_the_end_while_they_still_get_in(listener: socket.socket) -> None:
    config = load(None, {"server.dev": True, "drain.delay_seconds": 300.0})
    address = listener.getsockname()
    ready, said = asyncio.Event(), []

    def stopping() -> None:
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(address)  # on loopback it is decided when this returns
            said.append(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    served = asyncio.create_task(serve(config, [listener], ready.set, on_stopping=stopping, delay=False))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ready.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await served
    finally:
        gc.unfreeze()  # `serve` froze what lives as long as its process
    assert said == [0]


async def test_a_short_window_passes_and_everybody_was_told_to_come_back(listener: socket.socket) -> None:
    worker = started(listener, {"window_seconds": 0.3})
    clients = [await (await connect(listener)).open("news") for _ in range(10)]
    loop = asyncio.get_running_loop()
    before = loop.time()
    drained = asyncio.create_task(worker.drain(asyncio.Event()))
    for client in clients:
        code, reason = await client.close_frame()
        assert code == 1012
        assert reason.startswith("code=service_restart;in_ms=")
        await client.send(close(1012))
        assert await client.closed() == b""
        client.close()
    assert loop.time() - before > 0.2, "they left at once"
    async with asyncio.timeout(PATIENCE_SECONDS):
        await drained


async def test_a_second_wish_to_end_closes_whoever_is_left_at_once(listener: socket.socket) -> None:
    worker = started(listener, {"window_seconds": 80_000.0})
    clients = [await (await connect(listener)).open("news") for _ in range(10)]
    hasten = asyncio.Event()
    drained = asyncio.create_task(worker.drain(hasten))
    readable = {asyncio.create_task(client.close_frame()): client for client in clients}
    (first,), _ = await asyncio.wait(readable, return_when=asyncio.FIRST_COMPLETED)
    assert first.result()[0] == 1012
    hasten.set()
    codes = [code for code, _ in await asyncio.gather(*readable)]
    assert sorted(codes) == [1001] * 9 + [1012]  # type: ignore[type-var]
    for client in clients:
        await client.send(close(1001))
        assert await client.closed() == b""
        client.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await drained


async def test_a_hastened_end_does_not_wait_long_for_those_who_do_not_answer(listener: socket.socket) -> None:
    worker = started(listener, {"window_seconds": 80_000.0}, close_seconds=300.0, linger_seconds=300.0)
    silent = [await (await connect(listener)).open("news") for _ in range(2)]
    hasten = asyncio.Event()
    drained = asyncio.create_task(worker.drain(hasten))
    await wait_until(lambda: len(worker.reactor.ids(0, worker.reactor.places)) == 1, "the first was told")
    hasten.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await drained
    for client in silent:
        client.close()


async def test_a_listener_that_others_share_is_let_go_and_not_shut(listener: socket.socket) -> None:
    with closing(listener.dup()) as shared:
        worker = started(listener, {"window_seconds": 1.0})
        await worker.drain(asyncio.Event())
        client = await connect(shared)
        accepted, _ = await asyncio.get_running_loop().sock_accept(shared)
        accepted.close()
        client.close()


async def test_an_engine_in_the_process_lets_raw_messages_pass_it_by(listener: socket.socket) -> None:
    taken: list[Publication] = []

    class Watched(MemoryEngine):
        def publish(self, publication: Publication):  # type: ignore[no-untyped-def]
            taken.append(publication)
            return super().publish(publication)

    for direct, passed in ((True, 0), (False, 1)):
        taken.clear()
        Watched.direct = direct
        with closing(listener.dup()) as own:
            worker = Worker(load(None, {"server.dev": True}), [own], engine=Watched)
            worker.start()
            client = await (await connect(listener)).open("news")
            await client.send(frame(TEXT, b"x"))
            assert await client.text() == "x"
            assert len(taken) == passed
            client.close()
            await worker.drain(asyncio.Event())


def test_the_soft_limit_of_file_descriptors_is_raised_to_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert max_connections(0) == hard - RESERVED_FDS
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_the_configured_number_of_connections_holds_unless_the_system_has_less() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert max_connections(100) == 100
    assert max_connections(hard * 2) == hard - RESERVED_FDS
