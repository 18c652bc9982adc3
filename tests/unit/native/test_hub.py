"""Fan-out: encoded once, shared by all, in order, and one reader's trouble is nobody else's. No socket."""

import base64
import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.native._hub import Hub
from broker.native._outbox import Queue, Queues
from tests.server_frames import BINARY, TEXT, events, frames, texts

DATA_KIND, TEXT_KIND, BINARY_KIND = 0, 1, 2
PLENTY = 1 << 30


def crowd(queues: Queues, *formats: str, channel: bytes = b"news", policy: str = "disconnect") -> list[Queue]:
    readers = [Queue(queues, format) for format in formats]
    for reader in readers:
        reader.subscribe(channel, policy)
    return readers


def test_a_message_is_encoded_once_for_each_format_in_use_however_many_read_it() -> None:
    queues = Queues(PLENTY, 1000)
    readers = crowd(queues, *["raw", "json"] * 500)
    size = 10_000
    assert queues.hub.publish(b"news", TEXT_KIND, b"x" * size) == 1000
    counters = queues.counters()
    assert counters["n_frames_encoded"] == counters["g_frames"] == 2
    assert counters["n_offered"] == counters["g_queued"] == 1000
    assert queues.physical < 3 * size
    for reader in readers:
        reader.close()
    assert queues.physical == 0


def test_a_format_that_nobody_reads_is_not_encoded() -> None:
    queues = Queues(PLENTY, 1000)
    readers = crowd(queues, "json", "json")
    queues.hub.publish(b"news", TEXT_KIND, b"x")
    assert queues.counters()["n_frames_encoded"] == 1
    assert len(readers[0].queued()) == len(readers[1].queued()) == 1


def test_a_message_that_nobody_hears_costs_nothing() -> None:
    queues = Queues(PLENTY, 1000)
    assert queues.hub.publish(b"nobody", TEXT_KIND, b"x") == 0
    sender = Queue(queues, "raw")
    sender.subscribe(b"news", "disconnect", receives=False)
    assert queues.hub.publish(b"news", TEXT_KIND, b"x") == 0
    assert queues.hub.subscribers(b"news") == 0
    assert queues.hub.names() == [b"news"]
    counters = queues.counters()
    assert (counters["n_published"], counters["n_sequenced"], counters["n_frames_encoded"]) == (2, 2, 0)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
@pytest.mark.parametrize("kind", [TEXT_KIND, BINARY_KIND])
def test_a_payload_of_any_size_arrives_as_it_was_published(kind: int, size: int) -> None:
    queues = Queues(PLENTY, 1000)
    raw, enveloped = crowd(queues, "raw", "json")
    payload = (b"0123456789" * (size // 10 + 1))[:size]
    queues.hub.publish(b"news", kind, payload)
    assert frames(raw.write(PLENTY)) == [(TEXT if kind == TEXT_KIND else BINARY, payload)]
    (event,) = events(enveloped.write(PLENTY))
    received = event["text"].encode() if kind == TEXT_KIND else base64.b64decode(event["base64"], validate=True)
    assert received == payload


@given(
    channel=st.text(min_size=1, max_size=60),
    payload=st.one_of(
        st.tuples(st.just(TEXT_KIND), st.text()),
        st.tuples(st.just(BINARY_KIND), st.binary()),
        st.tuples(
            st.just(DATA_KIND),
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=9),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
            ),
        ),
    ),
    id=st.none() | st.text(max_size=20),
)
def test_the_envelope_parses_whatever_was_published_and_whatever_the_channel_is_called(
    channel: str, payload: tuple[int, object], id: str | None
) -> None:
    kind, value = payload
    data = value if isinstance(value, bytes) else str(value).encode()
    if kind == DATA_KIND:
        data = json.dumps(value).encode()
    name, field = channel.encode(), ("data", "text", "base64")[kind]
    queues = Queues(PLENTY, 1000)
    (reader,) = crowd(queues, "json", channel=name)
    extra = b"" if id is None else b',"id":' + msgspec.json.encode(id)
    queues.hub.publish(name, kind, data, extra)
    ((opcode, text),) = frames(reader.write(PLENTY))
    assert opcode == TEXT
    event = json.loads(text)
    assert msgspec.json.decode(text) == event
    assert event.pop("type") == "message"
    assert event.pop("channel") == channel
    assert abs(event.pop("time") - 1.8e12) < 4e11
    assert event.pop("id", None) == id
    received = event.pop(field)
    assert event == {}
    assert received == (base64.b64encode(data).decode() if kind == BINARY_KIND else value)


def test_messages_of_a_channel_arrive_in_the_order_they_were_published() -> None:
    queues = Queues(PLENTY, 10_000)
    readers = crowd(queues, *["raw"] * 7)
    for number in range(1000):
        queues.hub.publish(b"news", TEXT_KIND, b"%d" % number)
    for reader in readers:
        assert texts(reader.write(PLENTY)) == [str(number) for number in range(1000)]


def test_nobody_is_always_last() -> None:
    queues = Queues(PLENTY, 1000)
    readers = crowd(queues, *["raw"] * 5)
    orders = []
    for _ in range(10):
        queues.hub.publish(b"news", TEXT_KIND, b"x")
        orders.append(queues.marked())
        for reader in readers:
            reader.write(PLENTY)
    assert all(sorted(order) == list(range(5)) for order in orders)
    for place in range(5):
        assert sorted(order[place] for order in orders) == sorted([*range(5)] * 2)


def test_leaving_keeps_the_rotation_and_everybody_else() -> None:
    queues = Queues(PLENTY, 1000)
    readers = crowd(queues, *["raw"] * 6)
    for gone in (5, 0, 3):
        for _ in range(4):
            queues.hub.publish(b"news", TEXT_KIND, b"x")
            assert sorted(queues.marked()) == [n for n in range(6) if not readers[n].closed]
        readers[gone].close()
    assert queues.hub.subscribers(b"news") == 3


def test_a_publisher_may_leave_itself_out() -> None:
    queues = Queues(PLENTY, 1000)
    first, second, third = crowd(queues, "raw", "json", "raw")
    assert first.publish(b"news", TEXT_KIND, b"x") == 2
    assert first.queued() == []
    assert len(second.queued()) == len(third.queued()) == 1


def test_a_large_fan_out_waits_in_the_lane_for_large_ones() -> None:
    queues = Queues(PLENTY, 1000)
    few, many = crowd(queues, *["raw"] * 1000, channel=b"few"), crowd(queues, *["raw"] * 1001, channel=b"many")
    queues.hub.publish(b"many", TEXT_KIND, b"x")
    queues.hub.publish(b"few", TEXT_KIND, b"x")
    assert {reader.lane for reader in many} == {"bulk"}
    assert {reader.lane for reader in few} == {"small"}
    assert queues.marked()[:1000] == list(range(1000))


def test_blocked_connections_are_not_flushed_until_the_kernel_says_so() -> None:
    queues = Queues(PLENTY, 1000)
    (reader,) = crowd(queues, "raw")
    reader.block()
    queues.hub.publish(b"news", TEXT_KIND, b"x")
    assert queues.marked() == []
    assert reader.flushes == 0


# Trouble of one reader


def test_a_reader_that_is_found_gone_while_its_queue_is_flushed_takes_nobody_along() -> None:
    queues = Queues(PLENTY, 2)
    readers = crowd(queues, *["raw"] * 5)
    for reader in readers:
        reader.room = 100
    readers[2].room = -1
    for number in range(9):
        queues.hub.publish(b"news", TEXT_KIND, b"%d" % number)
    for index, reader in enumerate(readers):
        if index != 2:
            assert texts(reader.taken() + reader.write(PLENTY)) == [str(number) for number in range(9)]
    assert readers[2].closed
    assert not readers[2].too_slow
    readers[2].close()
    counters = queues.counters()
    assert counters["n_offered"] == 9 * 4 + 3
    assert counters["n_discarded"] == 3
    assert counters["n_written"] == 9 * 4


def test_a_reader_that_may_lose_nothing_and_stalls_is_reported_once_and_offered_nothing_more() -> None:
    queues = Queues(PLENTY, 3)
    slow, fine = crowd(queues, "raw", "raw")
    fine.room = PLENTY
    for number in range(20):
        queues.hub.publish(b"news", TEXT_KIND, b"%d" % number)
    assert slow.too_slow
    assert slow.flushes == 1
    assert texts(fine.taken() + fine.write(PLENTY)) == [str(number) for number in range(20)]
    slow.close()
    counters = queues.counters()
    assert counters["n_offered"] == 20 + 4
    assert counters["n_discarded"] == 4


def test_a_reader_that_keeps_up_is_flushed_as_often_as_it_takes_to_make_room() -> None:
    queues = Queues(1000, 1000, round_bytes=100)
    (reader,) = crowd(queues, "raw")
    reader.room = PLENTY
    for number in range(20):
        queues.hub.publish(b"news", TEXT_KIND, b"%020d" % number)
    queues.hub.publish(b"news", TEXT_KIND, b"x" * 900)
    assert not reader.closed
    assert reader.flushes > 1
    received = texts(reader.taken() + reader.write(PLENTY))
    assert received == [f"{number:020d}" for number in range(20)] + ["x" * 900]


def test_the_worker_is_told_when_frames_take_more_than_its_memory() -> None:
    queues = Queues(PLENTY, 1000, memory_bytes=50_000)
    readers = crowd(queues, "raw")
    for _ in range(4):
        queues.hub.publish(b"news", TEXT_KIND, b"x" * 10_000)
    assert queues.reliefs == 0
    queues.hub.publish(b"news", TEXT_KIND, b"x" * 10_000)
    assert queues.reliefs == 1
    readers[0].write(PLENTY)
    queues.hub.publish(b"news", TEXT_KIND, b"x")
    assert queues.reliefs == 1


# Channels


def test_a_channel_goes_with_its_last_subscription_even_one_that_only_publishes() -> None:
    queues = Queues(PLENTY, 1000)
    reader, sender = Queue(queues, "raw"), Queue(queues, "raw")
    reader.subscribe(b"news", "disconnect")
    sender.subscribe(b"news", "disconnect", receives=False)
    reader.unsubscribe(b"news")
    assert queues.hub.names() == [b"news"]
    sender.close()
    assert queues.hub.names() == []
    assert queues.counters()["g_channels"] == 0


def test_a_channel_that_comes_back_takes_the_policy_it_is_given_then() -> None:
    queues = Queues(PLENTY, 1)
    reader = Queue(queues, "raw")
    reader.subscribe(b"news", "disconnect")
    reader.unsubscribe(b"news")
    reader.subscribe(b"news", "drop_oldest")
    reader.block()
    for number in range(3):
        queues.hub.publish(b"news", TEXT_KIND, b"%d" % number)
    assert not reader.closed
    assert texts(reader.write(PLENTY)) == ["2"]


def test_a_hundred_thousand_names_come_and_go() -> None:
    queues = Queues(PLENTY, 1000)
    reader = Queue(queues, "raw")
    for number in range(100_000):
        reader.subscribe(b"room.%d" % number, "disconnect")
    assert queues.counters()["g_channels"] == queues.counters()["g_subscriptions"] == 100_000
    assert len(set(queues.hub.names())) == 100_000
    assert queues.hub.publish(b"room.77777", TEXT_KIND, b"here") == 1
    assert texts(reader.write(PLENTY)) == ["here"]
    reader.close()
    assert queues.hub.names() == []
    assert queues.counters()["g_channels"] == queues.counters()["g_subscriptions"] == 0


def test_a_crowd_that_leaves_in_any_order_leaves_nothing() -> None:
    queues = Queues(PLENTY, 1000)
    readers = crowd(queues, *["raw"] * 1000)
    for step in range(1000):
        readers[step * 7 % 1000].close()
        assert queues.hub.publish(b"news", TEXT_KIND, b"x") == 999 - step
        for reader in readers[:2]:
            reader.discard()
    assert queues.hub.names() == []


def test_a_counter_table_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="are needed"):
        Hub(bytearray(struct.pack("QQ", 0, 0)), 1, 1, 1)
