"""History over real sockets: every door, both formats, what is recovered, and what is said when it is not."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.client_frames import BINARY, TEXT, frame
from tests.integration.harness import JSON, Broker, Client, running, turns, wait_until

HISTORY: dict[str, Any] = {
    ">": {"history_count": 100, "history_bytes": 10_000_000},
    "live": {},
    "short.*": {"history_count": 3},
}


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with running(channels=HISTORY) as broker:
        yield broker


async def hello(broker: Broker, *channels: str) -> tuple[Client, list[dict[str, Any]]]:
    client = await broker.open(", ".join([JSON, *channels]))
    event = await client.event()
    assert event["type"] == "hello"
    return client, event["channels"]


async def publish(client: Client, channel: str, *texts: str) -> list[str]:
    """Publishes and returns the positions."""
    positions = []
    for number, text in enumerate(texts):
        await client.command(type="publish", channel=channel, text=text, id=number)
        event = await client.event()
        while event["type"] != "ack":
            event = await client.event()
        positions.append(event["position"])
    return positions


async def texts(client: Client, count: int) -> list[str]:
    return [(await client.event())["text"] for _ in range(count)]


async def test_every_message_of_a_history_channel_has_a_position_and_the_channel_has_one_when_empty(
    broker: Broker,
) -> None:
    client, channels = await hello(broker, "news")
    empty = channels[0]["position"]
    assert "recovered" not in channels[0]
    await client.command(type="publish", channel="news", data=1, id=1)
    message, ack = await client.event(), await client.event()
    assert message["position"] == ack["position"] != empty
    again, channels = await hello(broker, f"news|since.{empty}")
    assert channels == [{"channel": "news", "index": 1, "position": empty, "recovered": True}]
    assert await again.event() == message


async def test_who_comes_back_gets_what_was_missed_through_every_door(broker: Broker) -> None:
    publisher = await broker.open_json()
    positions = await publish(publisher, "news", *"abcdef")
    token = f"news|since.{positions[2]}"
    by_header, _ = await hello(broker, token)
    by_query = await broker.open(None, f"/ws?format=json&channel={quote(token)}")
    assert (await by_query.event())["channels"][0]["recovered"] is True
    in_band = await broker.open_json()
    await in_band.command(type="subscribe", channel="news", since=positions[2], id=1)
    assert await in_band.event() == {
        "type": "subscribed",
        "channels": [{"channel": "news", "index": 0, "position": positions[2], "recovered": True}],
        "id": 1,
    }
    raw_header, raw_query = await broker.open(token), await broker.open(None, f"/ws?channel={quote(token)}")
    for client in (by_header, by_query, in_band):
        assert await texts(client, 3) == ["d", "e", "f"]
    for client in (raw_header, raw_query):
        assert [await client.text() for _ in range(3)] == ["d", "e", "f"]
    await publish(publisher, "news", "g")
    for client in (by_header, by_query, in_band):
        assert await texts(client, 1) == ["g"]
    for client in (raw_header, raw_query):
        assert await client.text() == "g"
    assert broker.worker.node.replays.count == 0


async def test_a_replayed_message_is_the_one_that_was_delivered(broker: Broker) -> None:
    live, channels = await hello(broker, "news")
    start = channels[0]["position"]
    await live.command(type="publish", channel="news", data={"a": [1, "ü"]}, message_id="m", id=1)
    await live.command(type="publish", channel="news", text='say "ü"', id=2)
    await live.command(type="publish", channel="news", base64=base64.b64encode(b"\x00\xff").decode(), id=3)
    raw = await broker.open("news|send")
    events = [await live.event() for _ in range(6)]
    await raw.send(frame(BINARY, b"\xfe") + frame(TEXT, b"raw"))
    events += [await live.event() for _ in range(2)]
    messages = [event for event in events if event["type"] == "message"]
    assert len(messages) == 5
    again, _ = await hello(broker, f"news|since.{start}")
    assert [await again.event() for _ in range(5)] == messages
    await again.command(type="history", channel="news", since=start, id=4)
    assert (await again.event())["messages"] == messages
    raw_again = await broker.open("news|last.5")
    assert [(await raw_again.frame()) for _ in range(5)] == [
        (TEXT, b'{"a": [1, "\\u00fc"]}'),
        (TEXT, 'say "ü"'.encode()),
        (BINARY, b"\x00\xff"),
        (BINARY, b"\xfe"),
        (TEXT, b"raw"),
    ]


async def test_last_begins_with_the_last_few_in_every_format(broker: Broker) -> None:
    publisher = await broker.open_json()
    positions = await publish(publisher, "news", *"abcdef")
    client, channels = await hello(broker, "news|last.2", "empty|last.2")
    assert [one["recovered"] for one in channels] == [True, True]
    assert channels[0]["position"] == positions[3]
    raw = await broker.open("news|last.2")
    assert await texts(client, 2) == ["e", "f"]
    assert [await raw.text(), await raw.text()] == ["e", "f"]
    await publish(publisher, "news", "g")
    assert await texts(client, 1) == ["g"]
    assert await raw.text() == "g"


@pytest.mark.parametrize("since", ["trimmed", "zzzzz.1", "nonsense", "from the future"])
async def test_a_resume_that_would_have_a_hole_says_so_and_begins_with_what_comes(broker: Broker, since: str) -> None:
    publisher = await broker.open_json()
    positions = await publish(publisher, "short.a", *"abcdef")
    since = {"trimmed": positions[0], "from the future": positions[0].split(".")[0] + ".zz"}.get(since, since)
    client, channels = await hello(broker, f"short.a|since.{since}")
    with_last, both = await hello(broker, f"short.a|since.{since}|last.2")
    assert channels[0]["recovered"] is False
    assert both[0]["recovered"] is False
    assert channels[0]["position"] == positions[-1]
    assert await texts(with_last, 2) == ["e", "f"]
    await publish(publisher, "short.a", "g")
    assert await texts(client, 1) == ["g"]
    assert await texts(with_last, 1) == ["g"]


async def test_a_live_channel_beside_them_stays_as_it_was(broker: Broker) -> None:
    client, channels = await hello(broker, "live|last.3")
    assert channels == [{"channel": "live", "index": 1, "recovered": False}]
    await client.command(type="publish", channel="live", data=1, id=1)
    message, ack = await client.event(), await client.event()
    assert "position" not in message
    assert "position" not in ack
    await client.command(type="history", channel="live", id=2)
    assert (await client.event())["code"] == "no_history"


async def test_a_publisher_that_wants_no_echo_gets_none_from_the_history_either(broker: Broker) -> None:
    client = await broker.open_json()
    await client.command(type="publish", channel="news", text="mine", echo=False, id=1)
    await client.event()
    await publish(client, "news", "heard")
    await client.command(type="subscribe", channel="news", last=10, id=2)
    assert (await client.event())["type"] == "subscribed"
    assert await texts(client, 1) == ["heard"]
    other, _ = await hello(broker, "news|last.10")
    assert await texts(other, 2) == ["mine", "heard"]


async def test_the_history_command_reads_on_page_by_page_without_subscribing(broker: Broker) -> None:
    client = await broker.open_json()
    positions = await publish(client, "news", *"abcdefg")
    await client.command(type="history", channel="news", limit=2, id=1)
    last = await client.event()
    assert [one["text"] for one in last["messages"]] == ["f", "g"]
    assert (last["type"], last["id"], last["position"]) == ("history", 1, positions[6])
    assert "more" not in last
    read, since = [], positions[0]
    while True:
        await client.command(type="history", channel="news", since=since, limit=2)
        page = await client.event()
        assert page["recovered"] is True
        read += [one["text"] for one in page["messages"]]
        since = page["position"]
        if not page.get("more"):
            break
    assert read == list("bcdefg")
    await client.command(type="history", channel="news", since="zzzzz.1", limit=3, id=2)
    page = await client.event()
    assert page["recovered"] is False
    assert [one["text"] for one in page["messages"]] == ["a", "b", "c"]
    await publish(client, "news", "unheard")
    await client.command(type="ping", id=9)
    assert await client.event() == {"type": "ack", "id": 9}


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"channel": "a b"}, "bad_channel"),
        ({"channel": "news", "since": "not/a/position"}, "bad_option"),
        ({"channel": "news", "limit": 0}, "bad_command"),
        ({"channel": "news", "limit": 1001}, "bad_command"),
        ({"channel": "news", "last": 1}, "bad_command"),
    ],
)
async def test_a_history_command_that_is_wrong_is_told_why(broker: Broker, members: dict[str, Any], word: str) -> None:
    client = await broker.open_json()
    await client.command(type="history", id="x", **members)
    event = await client.event()
    assert (event["type"], event["code"], event["id"]) == ("error", word, "x")


async def test_a_page_of_history_is_bounded_in_bytes() -> None:
    async with running(channels={">": {"history_count": 100}}, limits_send_queue_bytes=65_536) as broker:
        client = await broker.open_json()
        await publish(client, "news", *("x" * 5000 for _ in range(10)))
        await client.command(type="history", channel="news", limit=10)
        page = await client.event()
        assert len(page["messages"]) == 3
        assert page["more"] is True


async def test_a_repeated_message_id_is_published_once_and_both_are_told_the_same(broker: Broker) -> None:
    first, second = await broker.open_json(), await broker.open_json("news", "live")
    for channel in ("news", "live"):
        acks = []
        for client in (first, first, second):
            await client.command(type="publish", channel=channel, text=channel, message_id="once", id=1)
            event = await client.event()
            while event["type"] != "ack":
                event = await client.event()
            acks.append(event)
        assert acks[0] == acks[1] == acks[2]
    await second.command(type="ping", id=9)
    assert await second.event() == {"type": "ack", "id": 9}


async def test_a_repeated_message_id_reaches_subscribers_once(broker: Broker) -> None:
    publisher, listener = await broker.open_json(), await broker.open("live")
    for text in ("a", "b"):
        await publisher.command(type="publish", channel="live", text=text, message_id="once", id=text)
        assert (await publisher.event())["type"] == "ack"
    assert await listener.text() == "a"
    await listener.caught_up()


async def test_what_is_forgotten_with_time_is_forgotten_for_those_who_come_back() -> None:
    async with running(channels={">": {"history_count": 10, "history_seconds": 0.05}}) as broker:
        publisher = await broker.open_json()
        (position,) = await publish(publisher, "news", "a")
        start = position.split(".")[0] + ".0"

        async def recovered() -> bool:
            client, channels = await hello(broker, f"news|since.{start}")
            client.close()
            return bool(channels[0]["recovered"])

        while await recovered():
            pass


async def test_a_subscriber_that_leaves_while_it_is_behind_leaves_nothing_behind(broker: Broker) -> None:
    publisher = await broker.open_json()
    await publish(publisher, "news", *("x" * 20_000 for _ in range(50)))
    stalled = await broker.connect(receive_buffer=4096)
    await stalled.open("news|last.50")
    client, _ = await hello(broker, "news|last.50")
    await client.command(type="unsubscribe", channel="news", id=1)
    await wait_until(lambda: broker.worker.node.replays.count == 1, "one is left behind, and blocked")
    stalled.reset()
    await wait_until(lambda: broker.worker.node.replays.count == 0, "forgotten with its connection")


async def test_a_replay_waits_for_its_reader_with_bounded_memory(broker: Broker) -> None:
    publisher = await broker.open_json()
    sent = [f"{number}:" + "x" * 60_000 for number in range(100)]
    await publish(publisher, "news", *sent)
    stalled = await broker.connect(receive_buffer=4096)
    await stalled.open("news|last.100")
    await wait_until(lambda: broker.counter("g_blocked") == 1)
    await turns()
    assert broker.worker.hub.memory < 4 * 65_536
    assert [await stalled.text() for _ in range(100)] == sent
    await publish(publisher, "news", "live")
    assert await stalled.text() == "live"
    assert broker.worker.node.replays.count == 0


async def test_json_that_is_replayed_too_slowly_is_told_how_many_are_missing_and_where() -> None:
    async with running(channels={">": {"history_count": 20, "history_bytes": 10_000_000}}) as broker:
        publisher = await broker.open_json()
        await publish(publisher, "news", *(f"{number}:" + "x" * 60_000 for number in range(20)))
        stalled = await broker.connect(receive_buffer=4096)
        await stalled.open(f"{JSON}, news|last.20")
        await wait_until(lambda: broker.counter("g_blocked") == 1)
        await publish(publisher, "news", *(f"{number}:" + "x" * 60_000 for number in range(20, 40)))
        assert (await stalled.event())["type"] == "hello"
        expected = 0
        gaps = 0
        while expected < 40:
            event = await stalled.event()
            if event["type"] == "gap":
                gaps += 1
                expected += event["missed"]
            else:
                assert event["text"].startswith(f"{expected}:")
                expected += 1
        assert gaps == 1


async def test_raw_that_is_replayed_too_slowly_is_closed_and_never_given_a_hole() -> None:
    async with running(channels={">": {"history_count": 20, "history_bytes": 10_000_000}}) as broker:
        publisher = await broker.open_json()
        await publish(publisher, "news", *(f"{number}:" + "x" * 60_000 for number in range(20)))
        stalled = await broker.connect(receive_buffer=4096)
        await stalled.open("news|last.20")
        await wait_until(lambda: broker.counter("g_blocked") == 1)
        await publish(publisher, "news", *(f"{number}:" + "x" * 60_000 for number in range(20, 40)))
        expected = 0
        while (got := await stalled.frame()).opcode == TEXT:
            assert got.payload.startswith(b"%d:" % expected)
            expected += 1
        assert int.from_bytes(got.payload[:2]) == 4208
        assert expected < 20


async def test_a_raw_publisher_to_a_history_channel_is_heard_and_kept(broker: Broker) -> None:
    publisher, listener = await broker.open("news"), await broker.open("news|recv")
    await publisher.send(b"".join(frame(TEXT, b"%d" % number) for number in range(200)))
    for client in (publisher, listener):
        assert [await client.text() for _ in range(200)] == [str(number) for number in range(200)]
    late = await broker.open("news|last.50")
    assert [await late.text() for _ in range(50)] == [str(number) for number in range(150, 200)]


async def test_a_payload_that_a_history_channel_does_not_take_closes_its_raw_publisher() -> None:
    async with running(channels={"news": {"history_count": 5, "payload": "json"}}) as broker:
        publisher = await broker.open("news")
        await publisher.send(frame(TEXT, b"[1]"))
        assert await publisher.text() == "[1]"
        await publisher.send(frame(TEXT, b"no json"))
        assert (await publisher.close_frame())[0] == 4522


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_fifty_thousand_messages_reach_twenty_who_come_back_at_random_or_they_are_told_exactly_when_not() -> None:
    """Readers that come back in the middle of a stream, at every point of their replay; one of them always too late."""
    total, kept, tail = 50_000, 3000, 100
    reached = [0] * 20

    async def read(broker: Broker, seed: int) -> tuple[int, int]:
        """Returns how often it came back, and how often too late."""
        chance = random.Random(seed)
        token, expected, returns, late = f"news|last.{tail}", -1, 0, 0
        while expected < total:
            client, channels = await hello(broker, token)
            recovered = channels[0]["recovered"]
            for _ in range(chance.randint(1, 1500)):
                event = await client.event()
                number = int(event["text"])
                if not recovered:
                    # The head was `tail` further when it came: what it asked for was really gone.
                    assert expected < number + tail - kept
                    late += 1
                    recovered = True
                else:
                    assert expected in (-1, number), event
                expected = reached[seed] = number + 1
                token = f"news|since.{event['position']}|last.{tail}"
                if expected == total:
                    break
            client.close()
            returns += 1
            if seed == 0:
                gone_at = broker.counter("n_published")
                await wait_until(lambda: broker.counter("n_published") >= min(total, gone_at + 2 * kept))  # noqa: B023
        return returns, late

    async with running(channels={"news": {"history_count": kept}}) as broker:
        publisher = await broker.open("news|send")
        readers = [asyncio.create_task(read(broker, seed)) for seed in range(20)]
        await wait_until(lambda: broker.counter("g_sessions") >= 21)
        for number in range(0, total, 50):
            await publisher.send(b"".join(frame(TEXT, b"%d" % one) for one in range(number, number + 50)))
            await wait_until(lambda: min(reached[1:]) >= number - kept * 2 // 3)  # noqa: B023
        results = await asyncio.gather(*readers)
        assert sum(returns for returns, _ in results) > 500
        assert [seed for seed, (_, late) in enumerate(results) if late] == [0]
        assert broker.worker.node.replays.count == 0
