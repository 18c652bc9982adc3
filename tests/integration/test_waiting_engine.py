"""An engine that has to ask somebody: commands of one connection wait in line, its input waits in the kernel."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.engine.base import EngineError, HistoryRule, Holdings, Joined, Publication
from tests.client_frames import BINARY, PING, PONG, TEXT, close, frame
from tests.integration.harness import Broker, Client, running, turns, wait_until
from tests.integration.waiting import DistantEngine


@pytest.fixture
def engine() -> DistantEngine:
    return DistantEngine()


@pytest.fixture
async def broker(engine: DistantEngine) -> AsyncIterator[Broker]:
    async with running(engine=engine.attach) as broker:
        yield broker


async def asked(engine: DistantEngine, *payloads: bytes) -> None:
    """Waits until exactly these publications wait for the engine, and lets pass what should not be asked."""
    await wait_until(lambda: len(engine.asked) >= len(payloads), f"the engine is asked for {payloads}")
    await turns()
    assert [publication.payload for publication, _ in engine.asked] == list(payloads)


async def test_commands_sent_behind_a_publish_are_answered_behind_it_and_in_order(
    broker: Broker, engine: DistantEngine
) -> None:
    client = await broker.open_json("news")
    await client.command(type="publish", channel="news", data=1, id="first")
    await client.command(type="subscribe", channel="room", id="second")
    await client.command(type="publish", channel="room", text="2", id="third")
    await client.command(type="ping", id="fourth")
    await asked(engine, b"1")
    assert client.input == b""
    engine.sequence("8f3a.1")
    assert (await client.event())["data"] == 1
    assert await client.event() == {"type": "ack", "id": "first", "position": "8f3a.1", "subscriptions": 1}
    assert await client.event() == {"type": "subscribed", "channels": [{"channel": "room", "index": 0}], "id": "second"}
    await asked(engine, b"2")
    engine.sequence()
    assert (await client.event())["text"] == "2"
    assert (await client.event())["id"] == "third"
    assert await client.event() == {"type": "ack", "id": "fourth"}


async def test_raw_messages_are_published_one_after_the_other_in_the_order_they_were_sent(
    broker: Broker, engine: DistantEngine
) -> None:
    publisher, subscriber = await broker.open("news"), await broker.open("news|recv")
    sent = [f"message {number}".encode() for number in range(20)]
    await publisher.send(b"".join(frame(TEXT, payload) for payload in sent))
    for payload in sent:
        await asked(engine, payload)
        assert broker.counter("n_published") == sent.index(payload)
        engine.sequence()
    for payload in sent:
        assert (await subscriber.text()).encode() == payload
        assert (await publisher.text()).encode() == payload


async def test_the_kind_of_a_raw_message_survives_the_wait(broker: Broker, engine: DistantEngine) -> None:
    client = await broker.open("news")
    await client.send(frame(BINARY, b"\xff") + frame(TEXT, b"text"))
    await asked(engine, b"\xff")
    engine.sequence()
    assert await client.frame() == (BINARY, b"\xff")
    await asked(engine, b"text")
    engine.sequence()
    assert await client.frame() == (TEXT, b"text")


async def test_other_connections_publish_while_one_waits(broker: Broker, engine: DistantEngine) -> None:
    slow, quick = await broker.open_json("news"), await broker.open("room")
    await slow.command(type="publish", channel="news", data="slow", id=1)
    await asked(engine, b'"slow"')
    await quick.send(frame(TEXT, b"quick"))
    await asked(engine, b'"slow"', b"quick")
    engine.asked.reverse()
    engine.sequence()
    assert await quick.text() == "quick"
    assert slow.input == b""
    engine.sequence()
    assert [(await slow.event())["type"] for _ in range(2)] == ["message", "ack"]


async def fill(client: Client, data: bytes) -> int:
    """Sends `data` again and again until the kernel takes no more, although the loop has had its turns."""
    sent, refused = 0, 0
    while refused < 50:
        try:
            sent += client.sock.send(data[sent % len(data) :])
            refused = 0
        except BlockingIOError:
            refused += 1
        await asyncio.sleep(0)
    return sent


@pytest.mark.parametrize("early", [False, True], ids=["while open", "behind the handshake"])
async def test_a_publisher_feels_the_engine_in_its_own_send_buffer(
    broker: Broker, engine: DistantEngine, early: bool
) -> None:
    listener = await broker.open("news|recv")
    publisher = await (broker.connect() if early else broker.open("news|send"))
    if early:
        await publisher.open("news|send")
    message = frame(BINARY, bytes(4000))
    sent = await fill(publisher, message)
    await asked(engine, bytes(4000))
    took = broker.counter("n_bytes_read")
    # What the kernel holds for a connection that is not read is far more than what the broker does.
    assert broker.worker.hub.memory < 2 * 65536
    assert took < 2 * 65536 < sent

    async def answer() -> None:
        whole = sent // len(message)
        for _ in range(whole):
            await wait_until(lambda: engine.asked)
            engine.sequence()

    async def read() -> int:
        for _ in range(sent // len(message)):
            assert len((await listener.frame()).payload) == 4000
        return 0

    await asyncio.gather(answer(), read())
    assert broker.counter("n_published") == sent // len(message)


async def test_an_engine_that_says_no_is_told_to_the_json_publisher_who_goes_on(
    broker: Broker, engine: DistantEngine
) -> None:
    client = await broker.open_json("news")
    for number, word in enumerate(["engine_unavailable", "outcome_unknown"]):
        await client.command(type="publish", channel="news", data=number, id=number)
        await asked(engine, str(number).encode())
        engine.refuse(EngineError(word))
        answer = await client.event()
        assert (answer["type"], answer["code"], answer["id"]) == ("error", word, number)
    await client.command(type="ping", id="still here")
    assert await client.event() == {"type": "ack", "id": "still here"}
    assert broker.counter("n_published") == 0


async def test_an_engine_that_says_no_closes_a_raw_publisher_who_could_not_know_otherwise(
    broker: Broker, engine: DistantEngine
) -> None:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"lost") + frame(TEXT, b"behind it"))
    await asked(engine, b"lost")
    engine.refuse(EngineError("engine_unavailable"))
    assert await client.close_frame() == (4103, "code=engine_unavailable;nothing can be published at the moment")
    await client.send(close(4103))
    assert await client.closed() == b""
    assert engine.taken == [b"lost"]
    client.close()
    await broker.ended_for("engine_unavailable")


class Refusing:
    """Says no before anything is asked."""

    direct = False
    local = False

    def start(self, native: object) -> None:
        """Nothing has to be connected."""

    async def usable(self) -> None:
        """At once."""

    def holdings(self) -> Holdings | None:
        return None

    async def ask_all(self, question: bytes) -> list[bytes]:
        raise AssertionError("nobody asks here")

    async def stop(self) -> None:
        """Nothing is open."""

    def publish(self, publication: Publication) -> asyncio.Future[object]:
        raise EngineError("engine_unavailable")

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        return Joined()

    def leave(self, channel: bytes) -> None:
        """Nothing is kept for a channel."""


async def test_an_engine_that_says_no_at_once_is_answered_like_one_that_waits() -> None:
    async with running(engine=lambda sink: Refusing()) as broker:  # type: ignore[arg-type, return-value]
        page = await broker.open_json("news")
        await page.command(type="publish", channel="news", data=1, id=7)
        assert (await page.event())["code"] == "engine_unavailable"
        raw = await broker.open("news")
        await raw.send(frame(TEXT, b"x"))
        assert (await raw.close_frame())[0] == 4103


@pytest.mark.parametrize("json", [False, True], ids=["raw", "json"])
async def test_a_bug_of_the_engine_closes_that_publisher_alone(
    broker: Broker, engine: DistantEngine, json: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker.expected_callback_errors = 1
    other = await broker.open("news|recv")
    client = await (broker.open_json("news") if json else broker.open("news"))
    if json:
        await client.command(type="publish", channel="news", text="x")
    else:
        await client.send(frame(TEXT, b"x"))
    await asked(engine, b"x")
    engine.refuse(RuntimeError("a secret of the engine"))
    assert await client.close_frame() == (1011, "code=internal_error;the server made a mistake")
    assert len([record for record in caplog.records if record.exc_info]) == 1
    await client.send(close(1011))
    await client.closed()
    client.close()
    await broker.ended_for("callback_error")
    await other.caught_up()


@pytest.mark.parametrize("json", [False, True], ids=["raw", "json"])
async def test_a_publisher_that_was_reset_meanwhile_is_gone_and_its_message_is_not(
    broker: Broker, engine: DistantEngine, json: bool
) -> None:
    listener = await broker.open("news|recv")
    client = await (broker.open_json("news") if json else broker.open("news"))
    if json:
        await client.command(type="publish", channel="news", text="a last word", id=1)
    else:
        await client.send(frame(TEXT, b"a last word"))
    await asked(engine, b"a last word")
    client.reset()
    await broker.ended_for("peer_gone")
    engine.sequence()
    assert await listener.text() == "a last word"
    await listener.caught_up()


async def test_a_slot_that_is_taken_again_is_not_mistaken_for_the_publisher_that_left(
    broker: Broker, engine: DistantEngine
) -> None:
    gone = await broker.open_json("news")
    await gone.command(type="publish", channel="news", data=1, id="not yours")
    await asked(engine, b"1")
    gone.reset()
    await broker.ended_for("peer_gone")
    client = await broker.open_json("room")
    await client.command(type="publish", channel="room", data=2, id="mine")
    await asked(engine, b"1", b"2")
    engine.sequence()
    await turns()
    # The first answer neither reaches the newcomer nor lets its next command overtake the one that waits.
    await client.command(type="ping", id="next")
    await asked(engine, b"2")
    assert client.input == b""
    engine.sequence()
    assert [(await client.event()).get("id") for _ in range(3)] == [None, "mine", "next"]


async def test_a_close_sent_behind_a_publish_does_not_take_it_back(broker: Broker, engine: DistantEngine) -> None:
    client, listener = await broker.open_json("news"), await broker.open("news|recv")
    await client.command(type="publish", channel="news", data=1, id=1)
    await client.send(close(1000))
    await asked(engine, b"1")
    assert client.input == b""
    engine.sequence()
    assert await listener.text() == "1"
    assert [(await client.event())["type"] for _ in range(2)] == ["message", "ack"]
    assert await client.close_frame() == (1000, "")
    assert await client.closed() == b""


async def test_who_leaves_while_its_publish_waits_is_forgotten_at_once_and_the_publish_is_not(
    broker: Broker, engine: DistantEngine
) -> None:
    client, listener = await broker.open_json("news"), await broker.open("news|recv")
    await client.command(type="publish", channel="news", text="bye", id=1)
    await asked(engine, b"bye")
    client.half_close()
    await broker.ended_for("peer_gone")
    assert await client.closed() == b""
    engine.sequence()
    assert await listener.text() == "bye"


async def test_what_a_client_sent_before_it_left_is_carried_out_after_what_waits(
    broker: Broker, engine: DistantEngine
) -> None:
    client, listener = await broker.open_json("news"), await broker.open("news|recv")
    await client.command(type="publish", channel="news", text="first", id=1)
    await asked(engine, b"first")
    await client.command(type="publish", channel="news", text="second", id=2)
    client.half_close()
    await turns()
    assert broker.reactor.connections == 2, "the second would be lost"
    engine.sequence()
    assert await listener.text() == "first"
    await asked(engine, b"second")
    engine.sequence()
    assert await listener.text() == "second"
    await broker.ended_for("peer_gone")


async def test_a_waiting_publisher_is_not_cut_for_a_pong_that_nobody_reads(
    broker: Broker, engine: DistantEngine
) -> None:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"x"))
    await asked(engine, b"x")
    broker.advance(28)
    assert (await client.frame()).opcode == PING
    await client.send(frame(PONG))
    for _ in range(4):
        broker.advance(11)
    engine.sequence()
    while (got := await client.frame()).opcode == PING:
        pass  # asked again while it was not read
    assert got.payload == b"x"


async def test_a_worker_that_ends_says_1001_to_a_publisher_whose_command_waits(
    broker: Broker, engine: DistantEngine
) -> None:
    client = await broker.open_json("news")
    await client.command(type="publish", channel="news", data=1, id=1)
    await asked(engine, b"1")
    assert broker.worker.gateway.close_all("going_away") == 1
    assert (await client.close_frame())[0] == 1001
    await client.send(close(1001))
    assert await client.closed() == b""
    broker.worker.gateway.cancel_all()
    await wait_until(lambda: engine.asked[0][1].cancelled())


# What the engine could not give this worker.


async def test_json_subscribers_are_told_of_a_hole_and_raw_ones_are_handed_to_whoever_ends_them(
    broker: Broker, engine: DistantEngine
) -> None:
    json, raw, other = await broker.open_json("news"), await broker.open("news"), await broker.open_json("room")
    ended: list[int] = []
    broker.worker.node.on_hole = ended.extend
    engine.sink.missed(b"news", 2)
    engine.sink.missed(b"news", 3)
    assert await json.event() == {"type": "gap", "channel": "news", "missed": 5}
    engine.sink.missed(b"news", 1)
    engine.sink.missed(b"news", None)
    engine.sink.missed(b"news", 1)
    assert await json.event() == {"type": "gap", "channel": "news", "missed": None}
    engine.sink.missed(b"unknown", None)
    assert len(ended) == 5
    assert len(set(ended)) == 1
    await raw.caught_up()
    await other.command(type="ping", id=1)
    assert await other.event() == {"type": "ack", "id": 1}
