"""Two workers and their listeners: who serves a client that the kernel gave to a worker which does not accept.

Both workers run in this test's loop, on a shared page, as two processes would; the test decides when one "hangs", by
writing its row.
"""

import asyncio
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest

from broker.config.load import load
from broker.metrics.page import ACCEPTING, DRAINING, Page, Row, worker_slot
from broker.native._counters import NAMES
from broker.supervisor.listeners import open_listeners
from broker.supervisor.siblings import STALE_NS, UNBALANCED_COUNT, Siblings
from broker.worker import Worker
from tests.client_frames import TEXT, close, frame
from tests.integration.harness import Client, request, turns, wait_until

CONNECTIONS = NAMES.index("g_connections")


class Pair:
    """Worker 0, which runs; and the rows of worker 1, of worker 0's successor, and of the listeners of both."""

    def __init__(self, listeners: list[socket.socket], **limits: object) -> None:
        self.page = Page.new(2)
        self.listeners = listeners
        self.address = self.listeners[0].getsockname()
        self.other = self.page.row(worker_slot(1, 0))
        self.successor = self.page.row(worker_slot(0, 1))
        self.row = self.page.row(worker_slot(0, 0))
        fds = [listener.fileno() for listener in self.listeners]
        self.siblings = Siblings(self.page, 0, worker_slot(0, 0), ((0,), (1,)), fds)
        settings = {f"limits.{name}": value for name, value in limits.items()}
        self.worker = Worker(
            load(None, {"server.dev": True, **settings}),
            self.listeners[:1],
            counters=self.row.counters,
            siblings=self.listeners[1:],
            beat=self.siblings.beat,
        )
        self.clients: list[Client] = []

    def start(self) -> None:
        self.worker.start()
        self.siblings.accepting()

    def beat(self) -> list[int]:
        return self.siblings.beat(self.worker)

    @property
    def neighbour(self) -> int:
        return self.listeners[1].fileno()

    async def connect(self) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        client = Client(sock)
        self.clients.append(client)
        await client.loop.sock_connect(sock, self.address)
        return client

    async def connect_to(self, listener: int) -> list[Client]:
        """Clients until the kernel has put one in the queue of this listener; all of them have asked."""
        found: list[Client] = []
        while not waits_in(self.listeners[listener]):
            found.append(await self.connect())
            await found[-1].send(request(offer="news"))
            assert len(found) < 100
        return found


def waits_in(listener: socket.socket) -> bool:
    """Whether somebody waits to be accepted, as the poller would see it."""
    return bool(select.select([listener], [], [], 0)[0])


def lively(row: Row, pid: int = 1, connections: int = 0) -> None:
    row.begin(pid)
    row.state = ACCEPTING
    row.heartbeat_ns = time.monotonic_ns() + 3600 * 10**9
    row.paused = False
    row.counters[CONNECTIONS] = connections


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    listeners = open_listeners("127.0.0.1", 0, 64, 2)
    yield listeners
    for listener in listeners:
        listener.close()


@pytest.fixture
async def pair(request: pytest.FixtureRequest, listeners: list[socket.socket]) -> AsyncIterator[Pair]:
    pair = Pair(listeners, **getattr(request, "param", {}))
    pair.start()
    yield pair
    hasten = asyncio.Event()
    hasten.set()
    await pair.worker.drain(hasten)
    for client in pair.clients:
        client.close()
    os.close(pair.page.fd)


async def test_who_waits_before_a_worker_that_is_gone_is_served_by_another(pair: Pair) -> None:
    clients = await pair.connect_to(1)
    for client in clients:
        assert (await client.answer()).status == 101
    assert pair.row.counters[NAMES.index("n_sibling_accepts")] == 1


async def test_a_sibling_that_looks_after_its_clients_is_left_alone(pair: Pair) -> None:
    lively(pair.other)
    assert pair.beat() == []


@pytest.mark.parametrize("why", ["silent", "starting", "draining", "paused", "gone"])
async def test_a_sibling_that_does_not_is_helped(pair: Pair, why: str) -> None:
    lively(pair.other)
    if why == "silent":
        pair.other.heartbeat_ns = time.monotonic_ns() - STALE_NS
    elif why == "paused":
        pair.other.paused = True
    elif why == "gone":
        pair.other.clear()
    else:
        pair.other.state = {"starting": 1, "draining": DRAINING}[why]
    assert pair.beat() == [pair.neighbour]


async def test_the_heartbeat_is_of_now_and_the_loop_gives_it(pair: Pair) -> None:
    heard: set[int] = set()

    def beats() -> int:
        assert pair.row.heartbeat_ns <= time.monotonic_ns()
        heard.add(pair.row.heartbeat_ns)
        return len(heard)

    await wait_until(lambda: beats() == 4)


@pytest.mark.parametrize("pair", [{"max_connections": 2}], indirect=True)
async def test_a_full_worker_leaves_its_own_clients_to_a_sibling_at_once(pair: Pair) -> None:
    lively(pair.other)
    pair.beat()
    while pair.worker.reactor.connections < 2:
        await pair.connect()
        await turns()
    # No heartbeat in between.
    waiting = (await pair.connect_to(0))[-1]
    assert pair.worker.reactor.connections == 2
    pair.beat()
    assert pair.row.paused
    assert waits_in(pair.listeners[0]), "it waits for the sibling, instead of being refused"
    # The sibling fills up as well: now somebody has to say so.
    pair.other.paused = True
    pair.beat()
    assert (await waiting.answer()).status == 503


async def test_a_worker_with_far_more_than_the_others_pauses_until_it_has_not(pair: Pair) -> None:
    lively(pair.other, connections=1000)
    for mine, paused in ((1000, False), (1400, False), (2000, True), (1600, True), (1300, False), (1600, False)):
        pair.row.counters[CONNECTIONS] = mine
        pair.beat()
        assert pair.row.paused is paused, mine
    pair.row.counters[CONNECTIONS] = 0


async def test_a_few_connections_are_no_imbalance(pair: Pair) -> None:
    lively(pair.other, connections=0)
    pair.row.counters[CONNECTIONS] = UNBALANCED_COUNT
    assert pair.beat() == []
    assert not pair.row.paused
    pair.row.counters[CONNECTIONS] = 0


async def test_the_heaviest_goes_on_accepting_when_nobody_else_does(pair: Pair) -> None:
    lively(pair.other, connections=0)
    pair.row.counters[CONNECTIONS] = 2000
    pair.beat()
    assert pair.row.paused
    pair.other.clear()
    assert pair.beat() == [pair.neighbour]
    assert not pair.row.paused
    pair.row.counters[CONNECTIONS] = 0
    for client in await pair.connect_to(1):
        assert (await client.answer()).status == 101


async def test_what_waits_before_anybody_at_the_end_is_answered_and_not_reset(
    listeners: list[socket.socket],
) -> None:
    pair = Pair(listeners)
    lively(pair.other)
    pair.start()
    clients = await pair.connect_to(1)
    drained = asyncio.create_task(pair.worker.drain(asyncio.Event()))
    for client in clients:
        answer = await client.answer()
        assert answer.status in (101, 503)
        if answer.status == 101:
            assert (await client.close_frame())[0] == 1001
            await client.send(close(1001))
        await client.closed()
        client.close()
    await drained


async def test_a_successor_takes_what_waits_and_handshakes_that_were_begun_are_finished(
    listeners: list[socket.socket],
) -> None:
    pair = Pair(listeners)
    lively(pair.other)
    pair.start()
    begun = await pair.connect()
    while waits_in(pair.listeners[1]):  # it was given to the other: once more
        pair.listeners[1].accept()[0].close()
        begun = await pair.connect()
    await begun.send(request(offer="news")[:20])
    await wait_until(lambda: pair.worker.reactor.connections >= 1)
    kept = pair.listeners[0].dup()  # the successor's
    lively(pair.successor)
    drained = asyncio.create_task(pair.worker.drain(asyncio.Event()))
    await wait_until(lambda: pair.worker.draining)
    late = await pair.connect()
    while not waits_in(kept):
        late = await pair.connect()
    await begun.send(request(offer="news")[20:])
    assert (await begun.answer()).status == 101
    assert (await begun.close_frame())[0] == 1001
    await begun.send(close(1001))
    await begun.closed()
    await drained
    kept.accept()[0].close()
    kept.close()
    for client in (*pair.clients, late):
        client.close()


async def test_a_beat_reaches_the_listeners_that_it_names(listeners: list[socket.socket]) -> None:
    asked: list[Worker] = []

    def beat(worker: Worker) -> Iterable[int]:
        asked.append(worker)
        return [listeners[1].fileno()]

    worker = Worker(load(None, {"server.dev": True}), listeners[:1], siblings=listeners[1:], beat=beat)
    worker.start()
    clients = []
    for _ in range(20):
        sock = socket.socket()
        sock.setblocking(False)
        client = Client(sock)
        await client.loop.sock_connect(sock, listeners[0].getsockname())
        clients.append(await client.open("news"))
    await clients[0].send(frame(TEXT, b"to all"))
    assert [await client.text() for client in clients] == ["to all"] * 20
    assert set(asked) == {worker}
    hasten = asyncio.Event()
    hasten.set()
    await worker.drain(hasten)
    for client in clients:
        client.close()
    assert [listener.fileno() for listener in listeners] == [-1, -1]
