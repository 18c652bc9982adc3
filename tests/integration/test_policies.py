"""What the operator's queue policy means to a reader that stops reading, from the configuration to the wire."""

import pytest

from tests.client_frames import BINARY, CLOSE, TEXT, frame
from tests.integration.harness import JSON, Broker, Client, turns, wait_until

QUEUE = 65536
CHANNELS = {
    "oldest": {"queue": "drop_oldest"},
    "newest": {"queue": "drop_newest"},
    "latest": {"queue": "latest"},
    "strict": {"queue": "disconnect"},
}
SETTINGS = {"limits_send_queue_bytes": QUEUE, "limits_max_message_bytes": QUEUE, "channels": CHANNELS}
configured = pytest.mark.parametrize("broker", [SETTINGS], indirect=True)
SIZE = 4000
COUNT = 60


async def stalled(broker: Broker, channel: str, *formats: str) -> Client:
    """A reader of `channel` that was blocked by something else, so that its queue is its own from here on."""
    reader = await broker.connect(receive_buffer=4096)
    await reader.open(", ".join([*formats, f"{channel}|recv", "filler|recv"]))
    filler = await broker.open("filler|send")
    while not broker.counter("g_blocked"):
        await filler.send(frame(BINARY, b"x" * 8192))
        await filler.caught_up()
    filler.close()
    return reader


async def publish(broker: Broker, channel: str) -> None:
    """COUNT numbered messages, several queues full."""
    publisher = await broker.open(f"{channel}|send")
    for i in range(COUNT):
        await publisher.send(frame(TEXT, b"%d" % i + b" " * SIZE))
        await publisher.caught_up()
    await publisher.send(frame(TEXT, b"end"))
    await publisher.caught_up()


def lost(numbers: list[int]) -> int:
    return COUNT - len(numbers)


@configured
@pytest.mark.parametrize("channel", ["oldest", "newest", "latest"])
async def test_a_raw_reader_stays_and_hears_what_the_policy_keeps(broker: Broker, channel: str) -> None:
    reader = await stalled(broker, channel)
    await publish(broker, channel)
    heard = []
    while True:
        opcode, payload = await reader.frame()
        if opcode == TEXT:
            heard.append(payload.split()[0].decode())
            if channel != "newest" and heard[-1] == "end":
                break
            if channel == "newest" and not broker.counter("g_queued") and reader.silent():
                break
    numbers = [int(each) for each in heard if each != "end"]
    counters = broker.counters()
    if channel == "oldest":
        assert numbers == list(range(COUNT - len(numbers), COUNT))
        assert 8 <= len(numbers) <= QUEUE // SIZE
        assert counters["n_dropped_oldest"] == lost(numbers)
    elif channel == "newest":
        assert heard == [str(i) for i in range(len(heard))] or heard[-1] == "end"
        assert 8 <= len(numbers) <= QUEUE // SIZE
        assert counters["n_dropped_newest"] == COUNT + 1 - len(heard)
    else:
        assert numbers == []
        assert counters["n_dropped_latest"] == COUNT
    assert broker.counter("g_sessions") >= 1


@configured
@pytest.mark.parametrize("channel", ["oldest", "newest"])
async def test_a_json_reader_is_told_how_much_it_missed_where_it_missed_it(broker: Broker, channel: str) -> None:
    reader = await stalled(broker, channel, JSON)
    await publish(broker, channel)
    numbers: list[int] = []
    missed: list[tuple[int, int]] = []
    while len(numbers) + sum(count for _, count in missed) < COUNT + 1:
        event = await reader.event()
        if event["type"] == "gap":
            assert event["channel"] == channel
            missed.append((len(numbers), event["missed"]))
        elif event["type"] == "message" and event["channel"] == channel:
            numbers.append(COUNT if event["text"] == "end" else int(event["text"]))
    dropped = COUNT + 1 - len(numbers)
    assert dropped > COUNT // 2
    assert sum(count for _, count in missed) == dropped
    assert numbers == sorted(set(numbers))
    expected = 0
    gaps = dict(missed)
    for place, number in enumerate(numbers):
        expected += gaps.get(place, 0)
        assert number == expected, "each gap stands where the messages are missing"
        expected += 1


@configured
async def test_a_reader_of_a_strict_channel_is_cut_instead(broker: Broker) -> None:
    reader = await stalled(broker, "strict")
    await publish(broker, "strict")
    while (got := await reader.frame()).opcode != CLOSE:
        assert got.opcode == BINARY
    assert got.payload == (4208).to_bytes(2) + b"code=too_slow;the connection took its messages too slowly"
    assert await reader.closed() == b""
    reader.close()
    await wait_until(lambda: broker.closed_by_cause().get("too_slow") == 1)


@configured
@pytest.mark.parametrize("channel", ["oldest", "newest", "latest", "strict"])
async def test_a_reader_that_keeps_up_loses_nothing_under_any_policy(broker: Broker, channel: str) -> None:
    reader, publisher = await broker.open(f"{channel}|recv"), await broker.open(f"{channel}|send")
    for i in range(0, 2000, 10):
        await publisher.send(b"".join(frame(TEXT, b"%d" % n) for n in range(i, i + 10)))
        assert [await reader.text() for _ in range(10)] == [str(n) for n in range(i, i + 10)]


@configured
@pytest.mark.parametrize("channel", ["oldest", "newest", "latest", "strict"])
async def test_a_burst_cuts_and_drops_nothing_of_a_reader_whose_socket_has_room(broker: Broker, channel: str) -> None:
    reader, publisher = await broker.open(f"{channel}|recv"), await broker.open(f"{channel}|send")
    # Several queues full in one read of the publisher's: a queue that is full but not blocked is flushed, not cut.
    await publisher.send(b"".join(frame(TEXT, b"%d" % n) for n in range(8000)))
    assert [await reader.text() for _ in range(8000)] == [str(n) for n in range(8000)]


MEMORY = {"limits_memory_bytes": 2**20, "limits_send_queue_bytes": 2**20}


@pytest.mark.parametrize("broker", [MEMORY], indirect=True)
async def test_short_of_memory_the_reader_furthest_behind_goes_and_the_others_stay(broker: Broker) -> None:
    readers = []
    for name in ("a", "b", "c"):
        reader = await broker.connect(receive_buffer=4096)
        readers.append(await reader.open(f"{name}|recv"))
        publisher = await broker.open(f"{name}|send")
        while broker.counter("g_blocked") < len(readers):
            await publisher.send(frame(BINARY, name.encode() * 8192))
            await publisher.caught_up()
        for _ in range(24):
            await publisher.send(frame(BINARY, name.encode() * 16384))
            await publisher.caught_up()
        publisher.close()
        if name != "c":
            assert broker.counter("n_memory_evictions") == 0
    await turns()
    assert broker.counter("n_memory_evictions") == 1
    assert broker.worker.hub.memory <= 2**20
    while (got := await readers[0].frame()).opcode != CLOSE:
        pass
    assert got.payload.startswith((4107).to_bytes(2) + b"code=memory_pressure;")
    for name, reader in zip("bc", readers[1:], strict=True):
        count = 0
        while count < 24:
            opcode, payload = await reader.frame()
            assert (opcode, set(payload)) == (BINARY, set(name.encode()))
            count += len(payload) == 16384
