"""Who is in a channel and what is told of it: users not sessions, batches not storms, and an owner's end. Fake time."""

from collections.abc import Iterator

import msgspec
import pytest

from broker.config.schema import Limits
from broker.engine.base import Member, PresenceEvent, Present
from broker.engine.presence import SLICE, Presence

LEAVE, BATCH = 10.0, 0.5
HERE, THERE = 1, 2


def member(session: str, user: str | None = None, body: bytes | None = None) -> Member:
    return Member(session, user, body if body is not None else (user or session).encode())


class Host:
    """Drives a book of one channel as an engine does: runs it when it says that something is due."""

    def __init__(self, **limits: float) -> None:
        settings = {"presence_leave_seconds": LEAVE, "presence_batch_seconds": BATCH, **limits}
        self.book = Presence(Limits(**settings))  # type: ignore[arg-type]
        self.now = 100.0
        self.events: list[PresenceEvent] = []
        self.slices: list[int] = []

    def enter(self, session: str, user: str | None = None, owner: int = HERE, channel: bytes = b"room") -> None:
        self.book.enter(channel, member(session, user), owner, self.now)

    def exit(self, session: str, owner: int = HERE, channel: bytes = b"room") -> None:
        self.book.exit(channel, session, owner, self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.book.next_due()) is not None and due <= until:
            self.now = max(self.now, due)
            told = self.book.run(self.now)
            self.slices.append(len(told))
            self.events.extend(event for _, event in told)
        self.now = until

    def told(self) -> list[PresenceEvent]:
        """What was told since this was last asked."""
        events, self.events = self.events, []
        return events

    def names(self, channel: bytes = b"room") -> set[bytes]:
        present = self.book.present(channel)
        assert present.truncated == (len(present.members) < present.count)
        return set(present.members)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.book.owner_gone(HERE)
    host.book.owner_gone(THERE)
    host.wait(2 * (LEAVE + BATCH))
    assert host.book.idle, "when everybody has left nothing is kept"


def test_those_who_come_within_a_batch_are_told_in_one_event(host: Host) -> None:
    host.enter("s1", "ann")
    host.wait(BATCH / 2)
    host.enter("s2", "bob")
    assert host.told() == []
    host.wait(BATCH / 2)
    assert host.told() == [PresenceEvent("join", (b"ann", b"bob"), 0, 2)]
    host.enter("s3", "cyd")
    host.wait(BATCH)
    assert host.told() == [PresenceEvent("join", (b"cyd",), 0, 3)]


def test_a_page_reload_is_no_leave(host: Host) -> None:
    host.enter("s1", "ann")
    host.wait(BATCH)
    host.told()
    host.exit("s1")
    host.wait(LEAVE - 0.1)
    assert host.names() == {b"ann"}
    host.enter("s2", "ann")
    host.wait(10 * LEAVE)
    assert host.told() == []
    assert host.names() == {b"ann"}


def test_whoever_has_been_gone_for_long_enough_has_left(host: Host) -> None:
    host.enter("s1", "ann")
    host.enter("s2", "bob")
    host.wait(BATCH)
    host.told()
    host.exit("s1")
    host.wait(LEAVE)
    assert host.names() == {b"bob"}
    assert host.told() == []
    host.wait(BATCH)
    assert host.told() == [PresenceEvent("leave", (b"ann",), 0, 1)]


def test_the_time_until_a_leave_begins_anew_with_each_absence(host: Host) -> None:
    host.enter("s1", "ann")
    host.wait(BATCH)
    host.told()
    host.exit("s1")
    host.wait(LEAVE - 1)
    host.enter("s2", "ann")
    host.exit("s2")
    host.wait(LEAVE - 0.1)
    assert host.names() == {b"ann"}
    host.wait(0.1)
    assert host.names() == set()


def test_a_user_with_two_tabs_leaves_with_the_last(host: Host) -> None:
    host.enter("s1", "ann")
    host.enter("s2", "ann")
    host.wait(BATCH)
    assert host.told() == [PresenceEvent("join", (b"ann",), 0, 1)]
    host.exit("s1")
    host.wait(5 * LEAVE)
    assert (host.told(), host.names()) == ([], {b"ann"})
    host.exit("s2")
    host.wait(LEAVE + BATCH)
    assert host.told() == [PresenceEvent("leave", (b"ann",), 0, 0)]


def test_a_session_of_nobody_in_particular_is_a_member_by_itself(host: Host) -> None:
    host.enter("s1")
    host.enter("s2")
    host.enter("s3", "s1")  # a user who is called like somebody's session is somebody else
    host.wait(BATCH)
    (event,) = host.told()
    assert (event.kind, event.count) == ("join", 3)
    host.exit("s1")
    host.wait(LEAVE + BATCH)
    assert host.told() == [PresenceEvent("leave", (b"s1",), 0, 2)]


def test_whoever_returns_before_the_leave_was_told_never_left(host: Host) -> None:
    host.enter("s1", "ann")
    host.wait(BATCH)
    host.told()
    host.exit("s1")
    host.wait(LEAVE)
    assert host.names() == set()
    host.enter("s2", "ann")
    host.wait(5 * LEAVE)
    assert (host.told(), host.names()) == ([], {b"ann"})


def test_whoever_is_gone_before_the_join_was_told_was_never_there() -> None:
    host = Host(presence_leave_seconds=0.1, presence_batch_seconds=5.0)
    host.enter("s1", "ann")
    host.exit("s1")
    host.wait(20)
    assert host.told() == []
    assert host.book.idle


def test_what_is_shown_of_a_member_is_what_came_with_its_newest_session(host: Host) -> None:
    host.book.enter(b"room", member("s1", "ann", b"old"), HERE, host.now)
    host.book.enter(b"room", member("s2", "ann", b"new"), HERE, host.now)
    assert host.names() == {b"new"}
    host.book.enter(b"room", member("s1", "ann", b"newest"), HERE, host.now)
    assert host.names() == {b"newest"}


def test_channels_know_nothing_of_each_other(host: Host) -> None:
    host.enter("s1", "ann")
    host.enter("s1", "ann", channel=b"hall")
    host.exit("s1", channel=b"hall")
    host.exit("s1", channel=b"yard")
    host.wait(LEAVE + 2 * BATCH)
    assert (host.names(), host.names(b"hall"), host.names(b"yard")) == ({b"ann"}, set(), set())
    assert host.book.present(b"yard") == Present((), 0, False)


# Owners: workers and their links.


def test_the_death_of_a_worker_is_the_leave_of_its_members_and_of_nobody_else(host: Host) -> None:
    host.enter("s1", "ann", HERE)
    host.enter("s2", "bob", HERE)
    host.enter("s3", "bob", THERE)
    host.enter("s4", "cyd", THERE)
    host.wait(BATCH)
    host.told()
    host.book.owner_gone(HERE)
    host.wait(LEAVE - 0.1)
    assert (host.told(), host.names()) == ([], {b"ann", b"bob", b"cyd"})
    host.wait(BATCH + 0.1)
    assert host.told() == [PresenceEvent("leave", (b"ann",), 0, 2)]


def test_whoever_comes_back_through_another_worker_has_not_left(host: Host) -> None:
    host.enter("s1", "ann", HERE)
    host.wait(BATCH)
    host.told()
    host.book.owner_gone(HERE)
    host.wait(LEAVE / 2)
    host.enter("s2", "ann", THERE)
    host.wait(5 * LEAVE)
    assert (host.told(), host.names()) == ([], {b"ann"})


@pytest.mark.parametrize("first", ["gone", "entered"])
def test_a_link_that_is_made_anew_enters_everybody_again_and_nobody_notices(host: Host, first: str) -> None:
    host.enter("s1", "ann", HERE)
    host.enter("s2", None, HERE)
    host.wait(BATCH)
    host.told()
    if first == "gone":
        host.book.owner_gone(HERE)
    host.enter("s1", "ann", THERE)
    host.enter("s2", None, THERE)
    if first == "entered":
        host.book.owner_gone(HERE)
    host.wait(5 * LEAVE)
    assert (host.told(), host.names()) == ([], {b"ann", b"s2"})
    host.exit("s1", THERE)
    host.wait(LEAVE + BATCH)
    assert host.told() == [PresenceEvent("leave", (b"ann",), 0, 1)]


def test_a_late_word_from_the_old_link_does_not_show_out_who_came_through_the_new_one(host: Host) -> None:
    host.enter("s1", "ann", HERE)
    host.enter("s1", "ann", THERE)
    host.exit("s1", HERE)
    host.wait(5 * LEAVE)
    assert host.names() == {b"ann"}


def test_the_end_of_a_worker_with_a_great_many_sessions_is_done_in_slices(host: Host) -> None:
    many = 4 * SLICE
    for number in range(many):
        host.enter(f"s{number}", f"user{number}")
    host.wait(BATCH)
    host.told()
    host.book.owner_gone(HERE)
    host.slices.clear()
    host.wait(LEAVE + 2 * BATCH)
    assert len(host.slices) >= 2 * many // SLICE
    events = host.told()
    assert {event.kind for event in events} == {"leave"}
    assert sum(len(event.members) + event.more for event in events) == many
    assert len(events) <= 2


# Bounds.


def test_a_crowd_that_comes_and_goes_at_once_costs_as_many_events_as_one_member() -> None:
    for crowd in (1, 5000):
        host = Host()
        for number in range(crowd):
            host.enter(f"s{number}", f"user{number}")
        host.wait(BATCH)
        (join,) = host.told()
        assert (join.kind, len(join.members) + join.more, join.count) == ("join", crowd, crowd)
        assert len(join.members) <= 100
        for number in range(crowd):
            host.exit(f"s{number}")
        host.wait(LEAVE + 2 * BATCH)
        (leave,) = host.told()
        assert (leave.kind, len(leave.members) + leave.more, leave.count) == ("leave", crowd, 0)
        assert len(leave.members) <= 100
        assert host.book.idle


def test_a_crowd_that_reconnects_costs_nothing() -> None:
    host = Host()
    for number in range(1000):
        host.enter(f"old{number}", f"user{number}")
    host.wait(BATCH)
    host.told()
    host.book.owner_gone(HERE)
    host.wait(1.0)
    for number in range(1000):
        host.enter(f"new{number}", f"user{number}", THERE)
    host.wait(5 * LEAVE)
    assert host.told() == []
    assert host.book.present(b"room").count == 1000


def test_coming_and_going_without_end_keeps_nothing_that_grows() -> None:
    host = Host()
    for number in range(10_000):
        host.enter(f"s{number}", "ann")
        host.exit(f"s{number}")
    assert host.book.places == 1
    assert len(host.book._heap) == 2  # her leave, and the batch with her join


def test_events_and_answers_name_as_many_as_they_may_and_count_the_others() -> None:
    host = Host(presence_event_members=2, presence_reply_members=3)
    for name in ("ann", "bob", "cyd", "dan"):
        host.enter(name, name)
    host.wait(BATCH)
    assert host.told() == [PresenceEvent("join", (b"ann", b"bob"), 2, 4)]
    assert host.book.present(b"room") == Present((b"ann", b"bob", b"cyd"), 4, True)
    host.exit("ann")
    host.wait(LEAVE + BATCH)
    assert host.told() == [PresenceEvent("leave", (b"ann",), 0, 3)]
    assert host.book.present(b"room") == Present((b"bob", b"cyd", b"dan"), 3, False)


def test_events_and_answers_are_bounded_in_bytes_too() -> None:
    host = Host(presence_list_bytes=1024)
    for name in ("ann", "bob", "cyd"):
        host.book.enter(b"room", member(name, name, name[:1].encode() * 400), HERE, host.now)
    host.wait(BATCH)
    assert host.told() == [PresenceEvent("join", (b"a" * 400, b"b" * 400), 1, 3)]
    assert host.book.present(b"room") == Present((b"a" * 400, b"b" * 400), 3, True)


def test_beyond_the_most_members_further_ones_are_counted_and_the_answer_says_that_it_is_not_all() -> None:
    host = Host(presence_members=2)
    host.enter("s1", "ann")
    host.enter("s2", "bob")
    host.enter("s3", "cyd")
    host.enter("s4", "dan", THERE)
    host.enter("s5", "eve", THERE, channel=b"hall")
    host.wait(BATCH)
    assert host.told() == [PresenceEvent("join", (b"ann", b"bob"), 0, 4)]
    assert host.book.present(b"room") == Present((b"ann", b"bob"), 4, True)
    assert host.book.present(b"hall") == Present((), 1, True)
    host.exit("s3")
    assert host.book.present(b"room").count == 3
    host.book.owner_gone(THERE)
    assert host.book.present(b"room") == Present((b"ann", b"bob"), 2, False)
    assert host.book.present(b"hall") == Present((), 0, False)
    host.exit("s1")
    host.wait(1.0)
    host.enter("s6", "ann")  # her place was kept
    assert host.book.present(b"room") == Present((b"ann", b"bob"), 2, False)
    host.exit("s2")
    host.wait(LEAVE + BATCH)
    host.enter("s7", "fay")  # his is free
    assert host.book.present(b"room") == Present((b"ann", b"fay"), 2, False)
    host.exit("s6")
    host.exit("s7")
    host.wait(LEAVE + 2 * BATCH)
    assert host.book.idle


def test_the_numbers_of_those_not_listed_are_bounded_as_well() -> None:
    host = Host(presence_members=3)
    for number in range(3):
        host.enter(f"s{number}", f"user{number}")
    for number in range(10):
        host.enter(f"t{number}", None, channel=b"c%d" % number)
    assert sum(host.book.present(b"c%d" % number).count for number in range(10)) == 3
    for number in range(10):
        host.exit(f"t{number}", channel=b"c%d" % number)
    assert sum(host.book.present(b"c%d" % number).count for number in range(10)) == 0


@pytest.mark.parametrize(
    "said",
    [Member("s1", None, b"{}"), PresenceEvent("leave", (b"{}",), 1, 0), Present((b"{}", b"[]"), 3, True)],
    ids=lambda said: type(said).__name__,
)
def test_what_engine_and_worker_say_to_each_other_fits_a_link(said: msgspec.Struct) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=type(said)) == said
