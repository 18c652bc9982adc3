"""Clients that take more than they give: floods of what is answered, readers that stop, publishers that hog."""

import json
from typing import Any

import pytest

from tests.client_frames import BINARY, CLOSE, PING, TEXT, close, frame
from tests.integration.harness import JSON, Broker, Client, request, turns, wait_until

QUEUE = 65536
SMALL = [{"limits_send_queue_bytes": QUEUE, "limits_max_message_bytes": QUEUE, "limits_ping_seconds": 1000.0}]
small = pytest.mark.parametrize("broker", SMALL, indirect=True)


async def block(broker: Broker, offer: str) -> Client:
    """A client of this offer that reads nothing and whose last write was short; at most one message waits for it."""
    reader = await broker.connect(receive_buffer=4096)
    await reader.open(offer)
    publisher = await broker.open("news|send")
    while not broker.counter("g_blocked"):
        await publisher.send(frame(BINARY, b"x" * 8192))
        await publisher.caught_up()
    publisher.close()
    return reader


def cut(broker: Broker) -> bool:
    """The one subscriber is closing; it is gone only when it has read its Close."""
    return broker.counter("g_subscriptions") == 0


async def flood(broker: Broker, client: Client, data: bytes) -> int:
    """Sends `data` until the broker ends the connection; returns the most memory the broker held meanwhile."""
    most = 0
    for _ in range(400):
        await client.send(data)
        await turns(2)
        most = max(most, broker.worker.hub.memory)
        if cut(broker):
            return most
    raise AssertionError("never cut")


def slow_close(data: bytes) -> bool:
    """The stream ends with the Close of a slow reader."""
    end = frame(CLOSE, (4208).to_bytes(2) + b"code=too_slow;the connection took its messages too slowly", mask=None)
    return data.endswith(end)


@small
@pytest.mark.parametrize(
    ("offer", "flooding"),
    [
        ("news|recv", frame(TEXT, b"ping") * 200),
        (f"{JSON}, news", frame(TEXT, b'{"type":"ping","id":1}') * 200),
        (f"{JSON}, news", frame(TEXT, b"no command at all") * 200),
        (f"{JSON}, news", frame(TEXT, b'{"type":"subscribe","channel":["' + b'","'.join([b"*"] * 1024) + b'"]}')),
        (f"{JSON}, news", frame(TEXT, b'{"type":"publish","channel":"news","text":"' + b"x" * 1000 + b'"}') * 20),
        ("news", frame(TEXT, b"x" * 1000) * 20),
    ],
    ids=["text pings", "command pings", "nonsense", "long answers", "own messages", "raw own messages"],
)
async def test_who_reads_nothing_and_asks_for_more_is_cut_within_its_queue(
    broker: Broker, offer: str, flooding: bytes
) -> None:
    flooder = await block(broker, offer)
    most = await flood(broker, flooder, flooding)
    # The queue's bound counts 16 bytes a message; really it is up to 64 more. One pass of input comes on top.
    assert most < 6 * QUEUE + 2 * 65536
    assert broker.counter("g_queued") <= 1, "only a message that is half written"
    assert slow_close(await flooder.closed())
    flooder.close()
    await wait_until(lambda: broker.closed_by_cause().get("too_slow") == 1)


@small
async def test_a_reader_cut_for_the_third_time_in_a_minute_is_told_to_wait(broker: Broker) -> None:
    codes = []
    for _ in range(3):
        flooder = await block(broker, "news")
        while not cut(broker):
            await flooder.send(frame(TEXT, b"x" * 1000) * 20)
            await turns(2)
        data = await flooder.closed()
        codes += [code for code in (4208, 4108) if b"\x88" in data and code.to_bytes(2) + b"code=too_slow" in data]
        flooder.close()
        await wait_until(lambda: broker.reactor.connections == 0)
    assert codes == [4208, 4208, 4108]


async def test_a_publisher_that_hogs_the_loop_delays_a_neighbour_by_a_pass_and_no_more(broker: Broker) -> None:
    hog, neighbour = await broker.open("hog|send"), await broker.open("news")
    listener = await broker.open("hog|recv")
    burst = frame(TEXT, b"x") * 20_000
    sending = hog.loop.create_task(hog.send(burst))
    await wait_until(lambda: broker.counter("n_input_pauses") > 0)
    before = broker.counter("n_messages_received")
    neighbour.sock.send(frame(PING, b"me"))
    await wait_until(lambda: not neighbour.silent())
    taken = broker.counter("n_messages_received") - before
    assert await neighbour.pong() == b"me"
    assert taken <= 8 * 1024, "a pass takes 1024 messages of one connection"
    await sending
    heard = 0
    while heard < 20_000:
        heard += (await listener.frame()) == (TEXT, b"x")
    await hog.caught_up()


async def test_a_publisher_that_leaves_at_once_has_published_all_it_sent(broker: Broker) -> None:
    publisher, listener = await broker.open("news|send"), await broker.open("news|recv")
    await publisher.send(b"".join(frame(TEXT, b"%d" % i) for i in range(5000)) + close(1000))
    publisher.half_close()
    assert [await listener.text() for _ in range(5000)] == [str(i) for i in range(5000)]
    assert await publisher.close_frame() == (1000, "")


async def test_one_stalled_reader_does_not_hold_back_the_others(broker: Broker) -> None:
    await block(broker, "news|recv")
    others = [await broker.open("news|recv") for _ in range(5)]
    publisher = await broker.open("news|send")
    for i in range(50):
        await publisher.send(frame(TEXT, b"%d" % i))
        assert [await each.text() for each in others] == [str(i)] * 5


@small
async def test_commands_of_a_stalled_reader_are_carried_out_and_answered_when_it_reads(broker: Broker) -> None:
    reader = await block(broker, f"{JSON}, news")
    for name in ("news", "other"):
        for kind in ("unsubscribe", "subscribe", "unsubscribe"):
            await reader.command(type=kind, channel=name, id=f"{kind} {name}")
    await reader.command(type="ping", id="last")
    await wait_until(lambda: broker.counter("g_subscriptions") == 0, "both channels left")
    answers: list[dict[str, Any]] = []
    while not answers or answers[-1].get("id") != "last":
        answers.append(await reader.event())
    answers = [each for each in answers if each["type"] not in ("hello", "message")]
    assert [(each["type"], each["id"], "error" in each.get("channels", [{}])[0]) for each in answers] == [
        ("unsubscribed", "unsubscribe news", False),
        ("subscribed", "subscribe news", False),
        ("unsubscribed", "unsubscribe news", False),
        ("unsubscribed", "unsubscribe other", True),
        ("subscribed", "subscribe other", False),
        ("unsubscribed", "unsubscribe other", False),
        ("ack", "last", False),
    ]


@pytest.mark.parametrize("offer", ["news", f"{JSON}, news"])
@pytest.mark.parametrize(
    ("early", "code"), [(close(1000), 1000), (frame(TEXT, b"a", mask=None), 1002), (frame(TEXT, b"\xff"), 1007)]
)
async def test_who_ends_in_the_write_of_its_request_still_gets_a_whole_answer(
    broker: Broker, offer: str, early: bytes, code: int
) -> None:
    client = await broker.connect()
    await client.send(request(offer=offer) + early)
    assert (await client.answer()).status == 101
    while (got := await client.frame()).opcode != CLOSE:
        assert json.loads(got.payload)["type"] == "hello"
    assert int.from_bytes(got.payload[:2]) == code
    assert await client.closed() == b""


async def test_who_is_accepted_while_the_server_ends_still_gets_a_whole_answer(broker: Broker) -> None:
    client = await broker.connect()
    await turns()
    client.sock.send(request(offer="news"))
    late = await broker.connect()
    late.sock.send(request(offer="news"))
    broker.reactor.stop_accepting()
    broker.worker.gateway.close_all("going_away")
    for each in (client, late):
        answer = await each.answer()
        assert answer.status in (101, 503)
        if answer.status == 101:
            assert (await each.close_frame())[0] == 1001
            await each.send(close(1001))
        assert await each.closed() == b""
