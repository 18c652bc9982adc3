"""What a bounded send queue keeps, gives up and tells, policy by policy. Random sequences are in tests/property."""

import pytest

from broker.native._outbox import Queue, Queues
from tests.server_frames import CLOSE, PING, PONG, TEXT, frame, frames, shown, texts

TEXT_KIND = 1
LOSSY = ["drop_oldest", "drop_newest", "latest"]


class Reader:
    """A connection with one queue, and somebody else who publishes."""

    def __init__(
        self, format: str = "json", *, max_messages: int = 4, max_bytes: int = 100_000, **channels: str
    ) -> None:
        self.queues = Queues(max_bytes, max_messages)
        self.queue = Queue(self.queues, format)
        self.publisher = Queue(self.queues, "raw")
        for name, policy in channels.items():
            self.queue.subscribe(name.encode(), policy)

    def publish(self, channel: str, *texts: object) -> None:
        for text in texts:
            assert self.publisher.publish(channel.encode(), TEXT_KIND, str(text).encode()) == 1

    def stalled(self) -> "Reader":
        self.queue.block()
        return self

    def reads(self) -> bytes:
        return self.queue.write(10**9)

    def counter(self, name: str) -> int:
        return self.queues.counters()[name]

    def gone(self) -> None:
        """The connection ends: nothing may be left of it."""
        self.queue.close()
        self.publisher.close()
        assert self.queues.physical == 0
        counters = self.queues.counters()
        assert {name: value for name, value in counters.items() if name.startswith("g_") and value} == {}
        dropped = sum(counters[f"n_dropped_{which}"] for which in ("oldest", "newest", "latest"))
        assert counters["n_offered"] == counters["n_written"] + dropped + counters["n_discarded"]


# Who is not blocked loses nothing


@pytest.mark.parametrize("policy", ["disconnect", *LOSSY])
def test_a_reader_that_keeps_up_loses_nothing_to_a_burst_larger_than_its_queue(policy: str) -> None:
    reader = Reader(a=policy)
    reader.queue.room = 10**6
    reader.publish("a", *range(50))
    assert not reader.queue.closed
    assert shown(reader.queue.taken() + reader.reads()) == [str(number) for number in range(50)]
    reader.gone()


@pytest.mark.parametrize("policy", ["disconnect", *LOSSY])
def test_a_message_larger_than_the_whole_queue_reaches_a_reader_that_keeps_up(policy: str) -> None:
    reader = Reader("raw", max_bytes=1000, a=policy)
    reader.publish("a", "x" * 5000)
    assert texts(reader.reads()) == ["x" * 5000]
    reader.gone()


def test_a_latest_channel_is_not_thinned_out_while_its_reader_keeps_up() -> None:
    reader = Reader(a="latest")
    reader.publish("a", 1, 2, 3)
    assert shown(reader.reads()) == ["1", "2", "3"]
    reader.gone()


# What each policy gives up


def test_disconnect_ends_the_connection_and_loses_nothing_silently() -> None:
    reader = Reader(a="disconnect").stalled()
    reader.publish("a", *range(5))
    assert reader.queue.too_slow
    assert len(reader.queue.queued()) == 4
    assert reader.counter("n_discarded") == 1
    reader.gone()


def test_drop_oldest_keeps_the_newest_and_tells_how_many_are_missing_before_them() -> None:
    reader = Reader(a="drop_oldest").stalled()
    reader.publish("a", *range(10))
    assert shown(reader.reads()) == [6, "6", "7", "8", "9"]
    assert reader.counter("n_dropped_oldest") == 6
    reader.gone()


def test_drop_newest_keeps_the_oldest_and_tells_how_many_are_missing_after_them() -> None:
    reader = Reader(a="drop_newest").stalled()
    reader.publish("a", *range(10))
    assert shown(reader.reads()) == ["0", "1", "2", "3", 6]
    assert reader.counter("n_dropped_newest") == 6
    reader.gone()


def test_latest_keeps_only_the_newest_of_each_channel() -> None:
    reader = Reader(a="latest", b="latest").stalled()
    for number in range(5):
        reader.publish("a", f"a{number}")
        reader.publish("b", f"b{number}")
    assert shown(reader.reads()) == [4, 4, "a4", "b4"]
    assert reader.counter("n_dropped_latest") == 8
    reader.gone()


def test_latest_is_thinned_out_when_its_reader_stalls() -> None:
    reader = Reader(a="latest")
    reader.publish("a", 1, 2, 3)
    reader.stalled()
    assert shown(reader.reads()) == [2, "3"]
    reader.gone()


def test_latest_keeps_the_newest_value_when_the_reader_stalls_in_the_middle_of_an_older_one() -> None:
    reader = Reader(a="latest")
    reader.publish("a", 1, 2, 3)
    begun = reader.queue.write(5)
    reader.stalled()
    assert shown(begun + reader.reads()) == ["1", 1, "3"]
    reader.gone()


def test_latest_keeps_one_message_when_the_write_that_makes_room_finds_the_reader_stalled() -> None:
    reader = Reader(a="latest")
    reader.publish("a", 1, 2, 3, 4)
    reader.queue.room = 0
    reader.publish("a", 5)
    assert reader.queue.blocked
    assert shown(reader.reads()) == [4, "5"]
    reader.gone()


def test_the_endless_stream_of_a_latest_channel_costs_no_memory() -> None:
    reader = Reader(a="latest", b="disconnect").stalled()
    reader.publish("b", "held")
    reader.publish("a", 0)
    before = reader.queues.physical
    for number in range(5000):
        reader.publish("a", number % 10)
        assert reader.queues.physical <= before + 128 * 16  # the ring of 128 slots is the third size
    assert shown(reader.reads()) == ["held", 5000, "9"]
    reader.gone()


@pytest.mark.parametrize("format", ["raw", "json"])
def test_the_endless_stream_of_a_drop_oldest_channel_costs_no_memory(format: str) -> None:
    reader = Reader(format, max_messages=8, a="drop_oldest").stalled()
    reader.publish("a", *range(100))
    before = reader.queues.physical
    for number in range(5000):
        reader.publish("a", 10 + number % 90)
        assert reader.queues.physical <= before + 64 * 16
    assert reader.queue.tombstones <= 16
    assert len(frames(reader.reads())) == 8 + (format == "json")
    reader.gone()


# Whose messages go


def test_a_lossy_channel_takes_nothing_away_from_another() -> None:
    reader = Reader(keep="disconnect", a="drop_oldest", b="drop_oldest").stalled()
    reader.publish("keep", "k1")
    reader.publish("b", "b1")
    reader.publish("a", *range(20))
    assert shown(reader.reads()) == ["k1", "b1", 18, "18", "19"]
    reader.gone()


def test_a_message_that_may_not_be_lost_pushes_out_what_lossy_channels_hold_oldest_first() -> None:
    reader = Reader("raw", keep="disconnect", a="drop_newest", b="drop_oldest").stalled()
    reader.publish("b", "b1")
    reader.publish("a", "a1", "a2")
    reader.publish("keep", "k1", "k2", "k3")
    assert not reader.queue.too_slow
    assert texts(reader.reads()) == ["a2", "k1", "k2", "k3"]
    assert reader.counter("n_dropped_oldest") == 1
    assert reader.counter("n_dropped_newest") == 1
    reader.gone()


def test_an_answer_pushes_out_what_lossy_channels_hold() -> None:
    reader = Reader("raw", a="drop_newest").stalled()
    reader.publish("a", *range(4))
    assert reader.queue.reply(b"ack")
    assert texts(reader.reads()) == ["1", "2", "3", "ack"]
    reader.gone()


def test_answers_are_never_victims() -> None:
    reader = Reader("raw", keep="disconnect", a="drop_oldest").stalled()
    for number in range(3):
        assert reader.queue.reply(b"ack%d" % number)
    reader.publish("a", "a1", "a2")
    assert reader.queue.reply(b"ack3")
    assert not reader.queue.reply(b"ack4")
    reader.publish("keep", "k1")
    assert reader.queue.too_slow
    assert texts(reader.reads()) == ["ack0", "ack1", "ack2", "ack3"]
    reader.gone()


@pytest.mark.parametrize("policy", LOSSY)
@pytest.mark.parametrize("format", ["raw", "json"])
def test_a_frame_whose_first_byte_has_left_is_finished_whatever_is_dropped(policy: str, format: str) -> None:
    reader = Reader(format, keep="disconnect", a=policy)
    reader.publish("a", "begun")
    begun = reader.queue.write(1)
    reader.stalled()
    reader.publish("a", *range(9))
    reader.publish("keep", "k")
    begun += reader.queue.write(1)
    reader.publish("a", *range(9))
    reader.queue.discard()
    data = begun + reader.reads()
    assert frames(data)[0] == frames(data)[-1]
    assert b"begun" in data
    reader.gone()


def test_the_bound_in_bytes_counts_sixteen_for_each_slot_and_what_a_pong_takes() -> None:
    def taken(max_bytes: int) -> bool:
        reader = Reader("raw", max_bytes=max_bytes, max_messages=10, a="disconnect").stalled()
        reader.queue.pong(b"1234")
        reader.publish("a", "x" * 10, "y" * 10)
        fitted = not reader.queue.too_slow
        reader.gone()
        return fitted

    need = (6 + 16) + 2 * (12 + 16)
    assert taken(need)
    assert not taken(need - 1)


# Gap notices


def test_a_notice_stands_where_the_first_loss_was_and_counts_all_until_it_is_written() -> None:
    reader = Reader(max_messages=3, a="drop_newest", b="drop_oldest").stalled()
    reader.publish("b", "b1")
    reader.publish("a", "a1", "a2", "a3")
    reader.publish("b", "b2", "b3")
    assert reader.queue.queued()[0] is None
    reader.publish("a", "a4")
    assert shown(reader.reads()) == [2, "a1", "a2", 2, "b3"]
    reader.gone()


def test_a_notice_takes_no_message_s_place() -> None:
    reader = Reader(keep="disconnect", a="latest").stalled()
    reader.publish("keep", "k1", "k2", "k3")
    reader.publish("a", "old", "new")
    assert shown(reader.reads()) == ["k1", "k2", "k3", 1, "new"]
    reader.gone()


def test_losses_after_a_notice_was_written_are_told_by_another() -> None:
    reader = Reader(max_messages=2, a="drop_newest").stalled()
    reader.publish("a", 1, 2, 3, 4)
    assert shown(reader.reads()) == ["1", "2", 2]
    reader.publish("a", 5, 6, 7)
    assert shown(reader.reads()) == ["5", "6", 1]
    reader.gone()


def test_losses_while_a_notice_is_half_written_are_told_by_another() -> None:
    reader = Reader(max_messages=3, a="drop_oldest").stalled()
    reader.publish("a", 1, 2, 3, 4)
    begun = reader.queue.write(4)
    reader.publish("a", 5, 6)
    assert shown(begun + reader.reads()) == [1, 3, "5", "6"]
    reader.gone()


def test_a_notice_laid_out_but_not_taken_by_the_kernel_keeps_its_count() -> None:
    reader = Reader(max_messages=3, a="drop_newest").stalled()
    reader.publish("a", 1, 2, 3, 4)
    begun = reader.queue.write(1, laid_out=10**6)
    reader.publish("a", 5)
    assert shown(begun + reader.reads()) == ["1", "2", "3", 1, 1]
    reader.gone()


def test_a_write_that_ends_before_a_notice_leaves_it_to_count_on() -> None:
    reader = Reader(max_messages=2, a="drop_newest").stalled()
    reader.publish("a", 1, 2, 3)
    first = len(reader.queue.queued()[0] or b"")
    second = len(reader.queue.queued()[1] or b"")
    data = reader.queue.write(first + second)
    assert reader.queue.queued() == [None]
    reader.publish("a", 4, 5)
    assert shown(data + reader.reads()) == ["1", "2", 1, "4", "5"]
    reader.gone()


def test_a_raw_reader_is_sent_no_notice() -> None:
    reader = Reader("raw", a="drop_oldest").stalled()
    reader.publish("a", *range(9))
    assert texts(reader.reads()) == ["5", "6", "7", "8"]
    reader.gone()


# Leaving and ending


def test_what_was_queued_before_unsubscribing_still_comes() -> None:
    reader = Reader(a="disconnect")
    reader.publish("a", 1, 2)
    reader.queue.unsubscribe(b"a")
    assert shown(reader.reads()) == ["1", "2"]
    assert reader.queues.hub.names() == []
    reader.gone()


def test_who_has_unsubscribed_is_told_of_no_gap() -> None:
    reader = Reader(max_messages=2, a="drop_oldest", b="disconnect").stalled()
    reader.publish("a", 1, 2, 3)
    reader.queue.unsubscribe(b"a")
    reader.publish("b", "b1")
    assert shown(reader.reads()) == ["3", "b1"]
    reader.gone()


def test_who_subscribes_again_is_not_told_of_losses_before() -> None:
    reader = Reader(max_messages=2, a="drop_newest").stalled()
    reader.publish("a", 1, 2, 3)
    reader.queue.unsubscribe(b"a")
    reader.queue.subscribe(b"a", "drop_newest")
    reader.publish("a", 4)
    assert shown(reader.reads()) == ["1", "2", 1]
    reader.gone()


def test_close_comes_after_the_frame_that_was_begun_and_instead_of_all_others() -> None:
    reader = Reader("raw", a="disconnect")
    reader.publish("a", "one", "two", "three")
    begun = reader.queue.write(2)
    reader.queue.pong(b"late")
    reader.queue.end(b"\x10\x70")
    assert not reader.queue.end_written
    assert frames(begun + reader.reads()) == [(TEXT, b"one"), (CLOSE, b"\x10\x70")]
    assert reader.queue.end_written
    assert reader.counter("n_written") == 1
    assert reader.counter("n_discarded") == 2
    reader.gone()


@pytest.mark.parametrize("size", [0, 1, 3, 100])
def test_nothing_of_a_dead_connection_stays_alive_however_much_was_written(size: int) -> None:
    reader = Reader(a="drop_newest", b="latest", c="disconnect", max_messages=6)
    for name in "abc":
        reader.publish(name, *range(3))
    reader.stalled()
    reader.publish("a", *range(5))
    reader.queue.write(size)
    reader.queue.pong(b"p")
    reader.gone()


# Pongs and pings


def test_only_the_latest_of_several_pings_is_answered() -> None:
    reader = Reader("raw")
    for payload in (b"1", b"2", b"3"):
        reader.queue.pong(payload)
    assert frames(reader.reads()) == [(PONG, b"3")]
    assert reader.counter("n_pongs_coalesced") == 2
    reader.gone()


def test_a_ping_counts_as_sent_when_its_last_byte_is() -> None:
    reader = Reader("raw")
    reader.queue.ping(b"?")
    begun = reader.queue.write(2)
    assert reader.queue.pings_written == 0
    assert begun + reader.reads() == frame(PING, b"?")
    assert reader.queue.pings_written == 1
    reader.gone()
