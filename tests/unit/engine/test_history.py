"""The store: budget, eviction, offsets that never come again, message ids."""

import pytest

from broker.engine.base import MESSAGE_ID_SECONDS, HistoryRule, Publication, Receipt
from broker.engine.history import RING_BYTES, History
from broker.engine.ring import ENTRY_BYTES

RULE = HistoryRule(100, 60.0, 1_000_000)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store(clock: Clock, most_bytes: int = 1_000_000, most_message_ids: int = 100) -> History:
    return History(most_bytes, most_message_ids, clock)


def publish(history: History, channel: bytes, payload: bytes = b"x", rule: HistoryRule = RULE) -> int:
    return history.add(Publication(channel, 1, payload, history=rule)).offset


def kept(history: History, channel: bytes) -> list[bytes]:
    ring = history.join(channel, RULE)
    history.leave(channel)
    return [one.payload for one in ring.after(ring.start, 1000, 10**9)]


def test_each_channel_counts_for_itself_and_says_when(clock: Clock) -> None:
    history = store(clock)
    assert [publish(history, b"a"), publish(history, b"a"), publish(history, b"b")] == [1, 2, 1]
    taken = history.add(Publication(b"a", 2, b"\xff", b',"id":"1"', 7, False, "1", RULE))
    assert taken == Publication(
        b"a", 2, b"\xff", b',"id":"1"', 7, False, "1", RULE, 3, history.epoch, 1_700_000_000_000
    )


def test_the_channel_that_was_used_longest_ago_makes_room(clock: Clock) -> None:
    history = store(clock, most_bytes=3 * (RING_BYTES + ENTRY_BYTES + 100))
    for channel in (b"a", b"b", b"c"):
        publish(history, channel, bytes(100))
    assert kept(history, b"a") == [bytes(100)]  # used just now
    publish(history, b"d", bytes(100))
    assert kept(history, b"b") == []
    assert kept(history, b"a") == [bytes(100)]
    assert history.total_bytes <= 3 * (RING_BYTES + ENTRY_BYTES + 100)


def test_an_evicted_channel_that_comes_back_never_repeats_an_offset(clock: Clock) -> None:
    history = store(clock, most_bytes=2 * (RING_BYTES + ENTRY_BYTES + 1))
    for _ in range(9):
        publish(history, b"a", rule=HistoryRule(1, 60.0, 100))
    before = history.join(b"a", RULE).position
    history.leave(b"a")
    publish(history, b"b")
    publish(history, b"c")
    ring = history.join(b"a", RULE)
    assert (ring.head, len(ring)) == (9, 0)
    assert ring.cursor_of(before, None) == (9, True)  # nothing was published since
    assert publish(history, b"a") == 10
    assert publish(history, b"new") == 10


def test_a_position_from_before_an_eviction_does_not_pass_for_complete(clock: Clock) -> None:
    history = store(clock, most_bytes=2 * (RING_BYTES + ENTRY_BYTES + 1))
    publish(history, b"a")
    before = history.join(b"a", RULE).position
    history.leave(b"a")
    publish(history, b"a", rule=HistoryRule(1, 60.0, 100))
    publish(history, b"b")
    publish(history, b"c")
    assert history.join(b"a", RULE).cursor_of(before, None)[1] is False


def test_a_channel_that_a_worker_reads_loses_what_it_keeps_but_not_its_place(clock: Clock) -> None:
    history = store(clock, most_bytes=2 * (RING_BYTES + ENTRY_BYTES + 1))
    publish(history, b"a")
    ring = history.join(b"a", RULE)
    publish(history, b"b")
    publish(history, b"c")
    assert (len(ring), ring.head) == (0, 1)
    assert history.join(b"a", RULE) is ring
    assert publish(history, b"a") == 2
    assert ring.head == 2


def test_one_channel_alone_stays_within_the_budget(clock: Clock) -> None:
    history = store(clock, most_bytes=10_000)
    for _ in range(100):
        publish(history, b"a", bytes(500))
    assert history.total_bytes <= 10_000
    assert 0 < len(kept(history, b"a")) < 20


def test_ever_new_channels_that_nobody_publishes_to_stay_within_the_budget(clock: Clock) -> None:
    history = store(clock, most_bytes=10 * RING_BYTES)
    for number in range(1000):
        history.join(b"%d" % number, RULE)
        history.leave(b"%d" % number)
    assert len(history) <= 10
    assert history.total_bytes <= 10 * RING_BYTES


def test_two_stores_have_two_epochs(clock: Clock) -> None:
    assert store(clock).epoch != store(clock).epoch


def test_a_message_id_is_remembered_for_its_channel_and_its_time(clock: Clock) -> None:
    history = store(clock)
    history.remember(b"a", "1", Receipt(3, "e.1"))
    assert history.first_receipt(b"a", "1") == Receipt(3, "e.1")
    assert history.first_receipt(b"b", "1") is None
    clock.now += MESSAGE_ID_SECONDS - 1
    assert history.first_receipt(b"a", "1") is not None
    clock.now += 2
    assert history.first_receipt(b"a", "1") is None


def test_ever_new_message_ids_push_out_the_oldest(clock: Clock) -> None:
    history = store(clock, most_message_ids=10)
    for number in range(1000):
        history.remember(b"a", str(number), Receipt(1))
    found = [number for number in range(1000) if history.first_receipt(b"a", str(number)) is not None]
    assert found == list(range(990, 1000))


def test_a_restored_store_goes_on_where_the_saved_one_was(clock: Clock) -> None:
    history = store(clock, most_bytes=3 * (RING_BYTES + ENTRY_BYTES + 3))
    for payload in (b"old", b"new"):
        publish(history, b"gone", payload)
    for channel in (b"a", b"b"):
        publish(history, channel, b"one")
    position = history.join(b"empty", RULE).position
    history.remember(b"a", "id", Receipt(4, "e.1"))
    again = History(3 * (RING_BYTES + ENTRY_BYTES + 3), 100, clock, history.state())
    assert again.epoch == history.epoch
    assert (kept(again, b"a"), kept(again, b"b")) == ([b"one"], [b"one"])
    assert publish(again, b"a") == 2
    assert publish(again, b"gone") > 2
    assert again.join(b"empty", RULE).cursor_of(position, None)[1]
    assert again.first_receipt(b"a", "id") == Receipt(None, "e.1")
