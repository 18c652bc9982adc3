"""Replays without sockets: fairness, a failing reader, a ring that is another one when its reader comes back."""

from collections.abc import Callable
from typing import cast

import pytest

from broker.engine.base import HistoryRule, Publication
from broker.engine.ring import Ring
from broker.native._reactor import Reactor
from broker.native._replay import FULL, GONE, QUEUED
from broker.recovery.replays import PAGE_MESSAGES, Replays, Shelf

RULE = HistoryRule(10_000, 1e9, 10**9)


class FakeReactor:
    """Takes what it is given; `room` is how much more of each connection, `here` which there are."""

    def __init__(self) -> None:
        self.given: dict[int, list[object]] = {}
        self.order: list[int] = []
        self.room: dict[int, int] = {}
        self.here: set[int] = set()
        self.json = True
        self.broken: set[int] = set()
        self.taken_back: set[int] = set()
        self.reported: list[BaseException] = []

    def replay(self, conn: int, name: bytes, kind: int, payload: bytes, extra: bytes, offset: int, time_ms: int) -> int:
        if conn in self.broken:
            raise RuntimeError("broken")
        if conn not in self.here:
            return GONE
        if not self.room.get(conn, 1):
            return FULL
        if conn in self.room:
            self.room[conn] -= 1
        self.given.setdefault(conn, []).append(offset)
        self.order.append(conn)
        return QUEUED

    def go_live(self, conn: int, name: bytes) -> int:
        if conn not in self.here:
            return GONE
        if conn in self.taken_back:
            return FULL
        self.given.setdefault(conn, []).append("live")
        return QUEUED

    def missed_behind(self, conn: int, name: bytes, count: int | None) -> bool:
        if self.json:
            self.given.setdefault(conn, []).append(("missed", count))
        return self.json

    def forget_replayed(self) -> None:
        """Nothing was encoded."""

    def report(self, error: BaseException) -> None:
        self.reported.append(error)


class Stage:
    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.ring = Ring("epoch", 0)
        self.cut: list[tuple[int, str]] = []
        self.soon: list[Callable[[], None]] = []
        self.now = 0.0
        self.step = 0.0
        self.replays = Replays(
            cast("Reactor", self.reactor),
            {b"news": Shelf(self.ring, RULE)},
            lambda conn, word: self.cut.append((conn, word)),
            self.soon.append,
            self._clock,
            lambda: 1000,
        )

    def _clock(self) -> float:
        self.now += self.step
        return self.now

    def fill(self, count: int) -> None:
        for offset in range(self.ring.head + 1, self.ring.head + count + 1):
            self.ring.append(Publication(b"news", 1, b"x", offset=offset, epoch=self.ring.epoch, time_ms=1000))

    def start(self, *conns: int, cursor: int = 0) -> None:
        for conn in conns:
            self.reactor.here.add(conn)
            self.replays.start(conn, b"news", cursor)

    def loop(self) -> None:
        """Runs what was asked for until nothing is."""
        while self.soon:
            self.soon.pop(0)()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nothing_is_replayed_in_the_call_that_starts_it(stage: Stage) -> None:
    stage.fill(3)
    stage.start(1)
    assert stage.reactor.given == {}
    stage.loop()
    assert stage.reactor.given == {1: [1, 2, 3, "live"]}
    assert stage.replays.count == 0


def test_readers_take_turns_page_by_page(stage: Stage) -> None:
    stage.fill(3 * PAGE_MESSAGES)
    stage.start(1, 2)
    stage.loop()
    turns = [conn for place, conn in enumerate(stage.reactor.order) if place % PAGE_MESSAGES == 0]
    assert turns == [1, 2, 1, 2, 1, 2]


def test_a_run_ends_in_time_and_asks_for_another(stage: Stage) -> None:
    stage.fill(10 * PAGE_MESSAGES)
    stage.step = 1.0
    stage.start(*range(1, 6))
    runs = 0
    while stage.soon:
        (run,) = stage.soon
        stage.soon.clear()
        before = len(stage.reactor.order)
        run()
        assert len(stage.reactor.order) - before <= PAGE_MESSAGES
        runs += 1
    assert runs >= 50
    assert all(given == [*range(1, 10 * PAGE_MESSAGES + 1), "live"] for given in stage.reactor.given.values())


def test_a_reader_without_room_is_left_alone_until_it_has_some(stage: Stage) -> None:
    stage.fill(5)
    stage.reactor.room[1] = 2
    stage.start(1)
    stage.loop()
    assert stage.reactor.given == {1: [1, 2]}
    stage.fill(1)
    stage.reactor.room[1] = 100
    stage.replays.on_room(1, [])
    stage.loop()
    assert stage.reactor.given == {1: [1, 2, 3, 4, 5, 6, "live"]}


def test_who_fell_behind_goes_on_where_it_was_interrupted(stage: Stage) -> None:
    stage.fill(9)
    stage.reactor.here.add(1)
    stage.replays.on_room(1, [(b"news", 6), (b"gone", 3)])
    stage.loop()
    assert stage.reactor.given == {1: [7, 8, 9, "live"]}


def test_what_was_taken_back_of_a_replay_is_read_again(stage: Stage) -> None:
    stage.fill(9)
    stage.reactor.room[1] = 5
    stage.start(1)
    stage.loop()
    stage.reactor.room[1] = 100
    stage.replays.on_room(1, [(b"news", 2)])
    stage.loop()
    assert stage.reactor.given == {1: [1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, "live"]}


def test_what_is_taken_back_at_the_very_end_keeps_it_from_going_live(stage: Stage) -> None:
    stage.fill(3)
    stage.reactor.taken_back.add(1)
    stage.start(1)
    stage.loop()
    assert stage.reactor.given == {1: [1, 2, 3]}
    stage.reactor.taken_back.clear()
    stage.replays.on_room(1, [(b"news", 1)])
    stage.loop()
    assert stage.reactor.given == {1: [1, 2, 3, 2, 3, "live"]}
    assert stage.replays.count == 0


def test_who_left_with_nothing_to_read_any_more_is_forgotten(stage: Stage) -> None:
    stage.start(1)
    stage.reactor.here.clear()
    stage.loop()
    assert stage.replays.count == 0


def test_what_is_trimmed_in_between_is_told_with_its_count(stage: Stage) -> None:
    stage.fill(9)
    stage.start(1)
    for _ in range(4):
        stage.ring.drop_oldest()
    stage.loop()
    assert stage.reactor.given == {1: [("missed", 4), 5, 6, 7, 8, 9, "live"]}


def test_another_epoch_in_between_is_told_without_a_count(stage: Stage) -> None:
    stage.fill(9)
    stage.start(1, cursor=5)
    stage.ring.renew("other", 0)
    stage.fill(2)
    stage.loop()
    assert stage.reactor.given == {1: [("missed", None), 1, 2, "live"]}


def test_a_raw_reader_that_cannot_be_told_is_cut(stage: Stage) -> None:
    stage.reactor.json = False
    stage.fill(9)
    stage.start(1)
    stage.ring.drop_oldest()
    stage.loop()
    assert stage.cut == [(1, "too_slow")]
    assert stage.reactor.given == {}
    assert stage.replays.count == 0


def test_a_failure_ends_that_reader_and_no_other(stage: Stage) -> None:
    stage.fill(3)
    stage.reactor.broken.add(1)
    stage.start(1, 2)
    stage.loop()
    assert stage.cut == [(1, "internal_error")]
    assert len(stage.reactor.reported) == 1
    assert stage.reactor.given == {2: [1, 2, 3, "live"]}


def test_a_reader_that_is_gone_is_forgotten(stage: Stage) -> None:
    stage.fill(3)
    stage.start(1)
    stage.reactor.here.clear()
    stage.loop()
    assert stage.replays.count == 0
    stage.replays.on_room(1, [])
    assert stage.soon == []


def test_who_subscribes_again_before_the_old_replay_has_gone_gets_one_replay(stage: Stage) -> None:
    stage.fill(4)
    stage.start(1)
    stage.start(1, cursor=2)
    stage.loop()
    assert stage.reactor.given == {1: [3, 4, "live"]}


def test_a_publisher_does_not_read_what_it_did_not_want_to_hear(stage: Stage) -> None:
    stage.ring.append(Publication(b"news", 1, b"x", conn=1, echo=False, offset=1, epoch="epoch", time_ms=1000))
    stage.start(1, 2)
    stage.loop()
    assert stage.reactor.given == {1: ["live"], 2: [1, "live"]}
