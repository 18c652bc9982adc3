"""The life of a link: greeted, cut at every moment, silent; who is told what. The test is the engine or stops it."""

import asyncio
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from broker.config.schema import Limits
from broker.engine import wire
from broker.engine.base import HistoryRule, Publication, Receipt, Sink
from broker.engine.link import LinkEngine
from tests.client_frames import TEXT, frame
from tests.integration.harness import Broker, running, turns, wait_until
from tests.integration.several import Cluster, several
from tests.records import ACK, CALL, HEAD, PUBLISH, REPLY, Record, unpack


class HandMade:
    """The engine's end of one worker's links, answered by hand."""

    def __init__(self) -> None:
        self.address = "\0ws-broker-test-" + secrets.token_hex(8)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen()
        self.listener.setblocking(False)
        self.broker: Broker
        self.link: LinkEngine
        self.end: socket.socket | None = None

    def make_link(self, sink: Sink) -> LinkEngine:
        self.link = LinkEngine(sink, self.address, 0, Limits())
        return self.link

    async def hello(self) -> Record:
        """The next link says it."""
        loop = asyncio.get_running_loop()
        self.cut()
        self.end, _ = await loop.sock_accept(self.listener)
        self.end.setblocking(False)
        (hello,) = unpack(await loop.sock_recv(self.end, 1 << 16))
        assert (hello.type, hello.kind) == (CALL, wire.Verb.HELLO)
        return hello

    def welcome(self, hello: Record) -> None:
        assert self.end is not None
        welcome = wire.encode(wire.Welcome(wire.VERSION, "epoch"))
        self.end.send(Record(REPLY, number=hello.number, payload=welcome).pack())

    def cut(self) -> None:
        if self.end is not None:
            self.end.close()
            self.end = None


@pytest.fixture
async def engine() -> AsyncIterator[HandMade]:
    engine = HandMade()
    async with running(engine=engine.make_link, alone=False) as engine.broker:
        yield engine
        engine.cut()
        engine.listener.close()


async def test_raw_messages_sent_on_a_link_that_never_comes_up_have_an_unknown_outcome(engine: HandMade) -> None:
    publisher = await engine.broker.open("news|send")
    hello = await engine.hello()
    await publisher.send(frame(TEXT, b"into the void"))
    await wait_until(lambda: engine.broker.counter("n_published") == 1)
    engine.cut()
    code, reason = await publisher.close_frame()
    assert (code, reason.split(";")[0]) == (4104, "code=outcome_unknown")
    publisher.close()
    assert hello.number == 1


async def test_a_link_that_breaks_behind_the_welcome_never_was_up(engine: HandMade) -> None:
    broker, loop = engine.broker, asyncio.get_running_loop()
    publisher = await broker.open("news|send")
    hello = await engine.hello()
    loop.remove_reader(broker.reactor.fileno())  # one turn takes the welcome and finds that nobody reads any more
    engine.welcome(hello)
    await publisher.send(frame(TEXT, b"x"))
    engine.cut()
    broker.reactor.turn()
    assert not broker.reactor.linked
    loop.add_reader(broker.reactor.fileno(), broker.reactor.turn)
    usable = asyncio.ensure_future(engine.link.usable())
    await turns()
    assert not engine.link.up
    assert not usable.done()
    assert (await publisher.close_frame())[0] == 4104
    publisher.close()
    engine.welcome(await engine.hello())
    await usable
    await wait_until(lambda: engine.link.up)


async def test_joins_of_many_channels_with_history_ask_for_no_more_at_once_than_a_link_may_bring(
    engine: HandMade,
) -> None:
    """A crowd that comes back to an empty worker: all windows at once would be more than the engine lets wait."""
    engine.welcome(await engine.hello())
    await engine.link.usable()
    rule = HistoryRule(100, 300.0, 1_048_576)
    names = [b"kept.%d" % number for number in range(40)]
    joins = [asyncio.ensure_future(engine.link.join(name, rule)) for name in names]
    end = engine.end
    assert end is not None
    asked: list[Record] = []
    answered = 0

    def hears() -> bool:
        with suppress(BlockingIOError):
            asked.extend(unpack(end.recv(1 << 16)))
        return len(asked) > answered

    while answered < len(names):
        await wait_until(hears)
        await turns()
        hears()
        assert len(asked) - answered <= 16
        window = wire.encode(wire.Window("epoch", 0))
        end.send(Record(REPLY, number=asked[answered].number, payload=window).pack())
        answered += 1
    assert [record.name for record in asked] == names
    await asyncio.gather(*joins)


async def test_commands_that_waited_for_credit_are_let_through_in_order_and_not_one_by_one(engine: HandMade) -> None:
    """Beside raw publishers, who take the whole window again each time, one at a time would be next to nothing."""
    engine.welcome(await engine.hello())
    await engine.link.usable()
    reactor, loop, end = engine.broker.reactor, asyncio.get_running_loop(), engine.end
    assert end is not None
    received = bytearray()
    while reactor.link_has_credit:
        reactor.link_publish(b"news", 1, b"x" * 60_000, b"", 0, True)
    commanders = [await engine.broker.open_json() for _ in range(12)]
    for number, commander in enumerate(commanders):
        await commander.command(type="publish", channel="news", text=str(number), id=number)
        await wait_until(lambda: len(engine.link._without_credit) > number)  # noqa: B023
    under_way = reactor.link_under_way
    size = len(Record(PUBLISH, 1, name=b"news", payload=b"x" * 60_000).pack())
    while len(received) < under_way * size:
        received += await loop.sock_recv(end, 1 << 20)
    end.send(Record(ACK, number=under_way, value=under_way * size).pack())
    await wait_until(lambda: reactor.link_under_way == len(commanders))
    del received[: under_way * size]
    records = 0
    while records < len(commanders):
        received += await loop.sock_recv(end, 1 << 20)
        with suppress(AssertionError, struct.error):  # the last one is not whole yet
            records = len(unpack(bytes(received)))
    assert [record.payload for record in unpack(bytes(received))] == [b"%d" % number for number in range(12)]


async def test_publishes_with_history_wait_for_credit_as_live_ones_do(engine: HandMade) -> None:
    """Ten thousand publishers of an engine that hangs would leave as many messages in this worker's memory."""
    engine.welcome(await engine.hello())
    await engine.link.usable()
    end, loop = engine.end, asyncio.get_running_loop()
    assert end is not None
    rule = HistoryRule(100, 300.0, 1_048_576)
    numbers = [b"%03d" % number for number in range(100)]
    going = [engine.link.publish(Publication(b"kept", 1, number + b"x" * 60_000, history=rule)) for number in numbers]
    receipts = asyncio.gather(*(each for each in going if not isinstance(each, Receipt)))
    taken: list[bytes] = []
    received = b""
    while len(taken) < len(numbers):
        received += await loop.sock_recv(end, 1 << 20)
        await turns()
        assert len(received) < 5 * 1024 * 1024
        while len(received) >= HEAD.size and len(received) >= (size := HEAD.unpack_from(received)[0]):
            (record,) = unpack(received[:size])
            received = received[size:]
            taken.append(wire.decode_publication(record.payload).payload[:3])
            if len(taken) == 1:
                assert engine.link._kept._left < 61_000, "the window is full"
            end.send(Record(REPLY, number=record.number, payload=wire.encode(Receipt())).pack())
    assert taken == numbers
    assert len(await receipts) == len(numbers)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with several(1) as cluster:
        yield cluster


async def test_a_link_under_raw_messages_alone_is_not_taken_for_silent(cluster: Cluster) -> None:
    """Nobody waits for their acks, and at any moment some are under way."""
    (one,), (link,) = cluster.workers, cluster.links
    now = 1000.0
    link._clock = lambda: now
    link.check_silence()
    publisher = await one.open("news|send")
    loop = asyncio.get_running_loop()
    for _ in range(9):
        loop.remove_reader(cluster.engine.exchange.fileno())
        await publisher.send(frame(TEXT, b"x"))
        await wait_until(lambda: one.reactor.link_under_way == 1)
        now += 2
        link.check_silence()
        assert link.up
        loop.add_reader(cluster.engine.exchange.fileno(), cluster.engine.exchange.turn)
        await wait_until(lambda: one.reactor.link_under_way == 0)


async def test_a_link_that_owes_an_answer_and_says_nothing_is_given_up_but_not_for_a_standstill_of_our_own(
    cluster: Cluster,
) -> None:
    (one,), (link,) = cluster.workers, cluster.links
    now = 1000.0
    link._clock = lambda: now
    link.check_silence()
    publisher = await one.open("news|send")
    asyncio.get_running_loop().remove_reader(cluster.engine.exchange.fileno())
    await publisher.send(frame(TEXT, b"x"))
    await wait_until(lambda: one.reactor.link_under_way == 1)
    now += 60
    link.check_silence()
    assert link.up, "a minute in which nobody looked: the worker was stopped, not the engine"
    for _ in range(2):
        now += 2
        link.check_silence()
        assert link.up
    now += 2
    link.check_silence()
    assert not link.up
    assert (await publisher.close_frame())[0] == 4104
    publisher.close()
