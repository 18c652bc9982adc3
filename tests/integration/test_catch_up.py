"""Policy catch_up: a reader that stalls loses nothing that is kept, costs a bounded queue, and holds up nobody."""

import random

import pytest

from tests.client_frames import BINARY, TEXT, frame
from tests.integration.harness import JSON, Broker, Client, turns, wait_until

QUEUE = 65_536
KEPT = {"history_count": 1000, "history_bytes": 50_000_000}
CHANNELS = {"kept.*": KEPT, "few": {**KEPT, "history_count": 5}, "strict": {"queue": "disconnect"}}
SETTINGS = {"limits_send_queue_bytes": QUEUE, "limits_max_message_bytes": QUEUE, "channels": CHANNELS}
pytestmark = pytest.mark.parametrize("broker", [SETTINGS], indirect=True)
SIZE = 4000
COUNT = 100


async def stalled(broker: Broker, *offer: str) -> Client:
    """A reader that was blocked by something else, so that its queue is its own from here on."""
    reader = await broker.connect(receive_buffer=4096)
    await reader.open(", ".join([*offer, "filler|recv"]))
    filler = await broker.open("filler|send")
    while not broker.counter("g_blocked"):
        await filler.send(frame(BINARY, b"x" * 8192))
        await filler.caught_up()
    filler.close()
    return reader


async def publish(broker: Broker, *channels: str, count: int = COUNT) -> None:
    for channel in channels:
        publisher = await broker.open(f"{channel}|send")
        for number in range(count):
            await publisher.send(frame(TEXT, b"%d %d" % (broker.counter("n_published"), number) + b" " * SIZE))
            await publisher.caught_up()
        publisher.close()


def number_of(text: str) -> int:
    return int(text.split()[1])


async def raw_numbers(reader: Client, count: int) -> list[int]:
    """Numbers of the next text messages, whatever the filler sent before them."""
    found: list[int] = []
    while len(found) < count:
        opcode, payload = await reader.frame()
        if opcode == TEXT:
            found.append(number_of(payload.decode()))
    return found


async def test_a_raw_reader_that_stalls_gets_everything_once_it_reads_again(broker: Broker) -> None:
    reader = await stalled(broker, "kept.a|recv")
    await publish(broker, "kept.a")
    assert broker.counter("n_put_off") > 0
    assert broker.worker.hub.memory < 3 * QUEUE
    assert await raw_numbers(reader, COUNT) == list(range(COUNT))
    await publish(broker, "kept.a", count=3)
    assert await raw_numbers(reader, 3) == [0, 1, 2]
    assert broker.worker.node.replays.count == 0


async def test_a_json_reader_gets_every_position_of_several_channels_without_a_gap(broker: Broker) -> None:
    reader = await stalled(broker, JSON, "kept.a", "kept.b")
    await publish(broker, "kept.a", "kept.b", "kept.a")
    found: dict[str, list[int]] = {"kept.a": [], "kept.b": []}
    while sum(map(len, found.values())) < 3 * COUNT:
        event = await reader.event()
        assert event["type"] != "gap"
        if event.get("channel") in found:
            found[event["channel"]].append(number_of(event["text"]))
    assert found == {"kept.a": [*range(COUNT), *range(COUNT)], "kept.b": [*range(COUNT)]}


async def test_what_must_not_be_lost_takes_the_place_of_what_can_be_read_again(broker: Broker) -> None:
    reader = await stalled(broker, JSON, "kept.a", "strict")
    await publish(broker, "kept.a", count=10)
    await publish(broker, "strict", count=10)
    # An answer, too, finds room.
    await reader.command(type="ping", id="still here")
    strict: list[int] = []
    kept: list[int] = []
    answers = 0
    while len(strict) + len(kept) + answers < 21:
        event = await reader.event()
        assert event["type"] != "gap"
        if event.get("channel") == "strict":
            strict.append(number_of(event["text"]))
        elif event.get("channel") == "kept.a":
            kept.append(number_of(event["text"]))
        elif event["type"] == "ack":
            answers += 1
    assert strict == kept == list(range(10))
    assert broker.counter("n_put_off") > 0


async def test_a_json_reader_that_stalls_beyond_what_is_kept_is_told_how_many_it_missed(broker: Broker) -> None:
    reader = await stalled(broker, JSON, "few")
    await publish(broker, "few")
    expected, gaps = 0, 0
    while expected < COUNT:
        event = await reader.event()
        if event["type"] == "gap":
            expected += event["missed"]
            gaps += 1
        elif event.get("channel") == "few":
            assert number_of(event["text"]) == expected
            expected += 1
    assert gaps == 1


async def test_a_raw_reader_that_stalls_beyond_what_is_kept_is_closed(broker: Broker) -> None:
    reader = await stalled(broker, "few|recv")
    await publish(broker, "few")
    expected = 0
    while (got := await reader.frame()).opcode != 8:
        if got.opcode == TEXT:
            assert number_of(got.payload.decode()) == expected
            expected += 1
    assert int.from_bytes(got.payload[:2]) == 4208


async def test_a_stalled_reader_holds_up_nobody(broker: Broker) -> None:
    await stalled(broker, "kept.a|recv")
    healthy = await broker.open("kept.a|recv")
    await publish(broker, "kept.a")
    assert await raw_numbers(healthy, COUNT) == list(range(COUNT))


@pytest.mark.parametrize("end", ["reset", "unsubscribe", "close"])
async def test_a_reader_that_leaves_while_it_is_behind_leaves_nothing_behind(broker: Broker, end: str) -> None:
    reader = await stalled(broker, JSON, "kept.a")
    await publish(broker, "kept.a")
    assert broker.counter("n_put_off") > 0
    if end == "reset":
        reader.reset()
        await wait_until(lambda: broker.counter("g_sessions") == 0)
    elif end == "close":
        broker.worker.gateway.close_all("going_away")
    else:
        await reader.command(type="unsubscribe", channel="kept.a", id=1)
        while (await reader.event())["type"] != "unsubscribed":
            pass
        await reader.command(type="ping", id=2)
        assert await reader.event() == {"type": "ack", "id": 2}
    await wait_until(lambda: broker.worker.node.replays.count == 0)
    await turns()


@pytest.mark.parametrize("seed", range(4))
async def test_readers_that_stall_at_random_get_every_message_in_order(broker: Broker, seed: int) -> None:
    chance = random.Random(seed)
    channels = ["kept.a", "kept.b", "kept.c"]
    readers = []
    for number in range(6):
        reader = await broker.connect(receive_buffer=4096)
        names = chance.sample(channels, chance.randint(1, 3))
        await reader.open(", ".join([JSON, *names] if number % 2 else [f"{names[0]}|recv"]))
        expected = dict.fromkeys(names if number % 2 else names[:1], 0)
        readers.append((reader, expected, bool(number % 2)))
    publishers = {channel: await broker.open(f"{channel}|send") for channel in channels}
    sent = dict.fromkeys(channels, 0)

    async def read(reader: Client, expected: dict[str, int], json: bool) -> None:
        if json:
            event = await reader.event()
            assert event["type"] in ("hello", "message"), event
            if event["type"] == "hello":
                return
            channel, number = event["channel"], number_of(event["text"])
        else:
            (channel,), number = expected, number_of(await reader.text())
        assert number == expected[channel], (channel, number, expected)
        expected[channel] += 1

    for _ in range(400):
        channel = chance.choice(channels)
        payloads = []
        for _ in range(chance.randint(1, 4)):
            payloads.append(frame(TEXT, b"x %d" % sent[channel] + b" " * chance.choice([0, 100, 9000])))
            sent[channel] += 1
        await publishers[channel].send(b"".join(payloads))
        reader, expected, json = chance.choice(readers)
        for _ in range(chance.choice([0, 0, 0, 20])):
            if any(expected[name] < sent[name] for name in expected):
                await read(reader, expected, json)
    for reader, expected, json in readers:
        while any(expected[name] < sent[name] for name in expected):
            await read(reader, expected, json)
    assert broker.counter("n_put_off") > 0
    assert broker.worker.node.replays.count == 0
