"""The rings of a worker whose engine is elsewhere: what a join and what follows it mean to live subscribers."""

from typing import Any

import msgspec
import pytest

from broker.engine.base import HistoryRule, Joined, Publication
from broker.engine.ring import Ring
from broker.recovery.shelves import MOST_EARLY, MOST_EARLY_BYTES, Shelves

RULE = HistoryRule(100, 1e6, 1_000_000)


def publication(offset: int, epoch: str = "old") -> Publication:
    return Publication(b"news", 1, b"x", history=RULE, offset=offset, epoch=epoch, time_ms=1000)


def joined(head: int, kept: int, epoch: str = "old") -> Joined:
    return Joined(epoch, head, tuple(publication(offset, epoch) for offset in range(head - kept + 1, head + 1)))


class Stage:
    """What live subscribers are given is in `given`: offsets, and ("lost", count)."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.asked = 0
        self.shelves = Shelves(
            self._fan_out, lambda name, count: self.given.append(("lost", count)), self._ask, 1 << 30
        )

    def _lost(self, name: bytes, count: int | None) -> None:
        self.given.append(("lost", count))

    def _fan_out(self, publication: Publication) -> int:
        self.given.append(publication.offset)
        return 3

    def _ask(self, name: bytes) -> None:
        self.asked += 1

    def join(self, answer: Joined) -> None:
        self.shelves.joined(b"news", RULE, answer)

    def deliver(self, *offsets: int, epoch: str = "old") -> None:
        for offset in offsets:
            self.shelves.deliver(publication(offset, epoch))

    @property
    def kept(self) -> list[int]:
        ring = self.shelves[b"news"].ring
        return [one.offset for one in ring.after(ring.start, 100_000, 10**9)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_the_first_join_fills_the_ring_and_what_follows_goes_to_both(stage: Stage) -> None:
    stage.join(joined(10, 3))
    assert (stage.kept, stage.given) == ([8, 9, 10], [])
    assert stage.shelves.deliver(publication(11)) == 3
    stage.deliver(12)
    assert (stage.kept, stage.given) == ([8, 9, 10, 11, 12], [11, 12])


def test_what_is_delivered_before_the_answer_comes_after_it(stage: Stage) -> None:
    stage.shelves.expect(b"news")
    stage.deliver(10, 11, 12)
    assert stage.given == []
    stage.shelves.expect(b"news")
    stage.join(joined(10, 2))
    assert (stage.kept, stage.given) == ([9, 10, 11, 12], [11, 12])
    stage.deliver(13)
    assert stage.given == [11, 12, 13]


def test_what_comes_twice_is_given_once(stage: Stage) -> None:
    stage.join(joined(10, 3))
    stage.deliver(11, 11, 10, 12)
    assert stage.given == [11, 12]
    assert stage.asked == 0


def test_a_hole_holds_up_what_follows_until_the_engine_has_filled_it(stage: Stage) -> None:
    stage.join(joined(10, 3))
    stage.deliver(11, 14, 15)
    assert (stage.given, stage.asked) == ([11], 2), "with each, as the last question may have failed"
    stage.join(joined(15, 10))
    assert stage.given == [11, 12, 13, 14, 15]
    stage.deliver(16)
    assert stage.given[-1] == 16
    assert stage.kept == list(range(8, 17))


def test_a_hole_that_the_engine_cannot_fill_is_told_with_its_size_in_its_place(stage: Stage) -> None:
    stage.join(joined(10, 3))
    stage.deliver(20)
    stage.join(joined(20, 4))
    assert stage.given == [("lost", 6), 17, 18, 19, 20]
    assert stage.kept == [17, 18, 19, 20]


def test_a_new_link_brings_what_was_missed_while_there_was_none(stage: Stage) -> None:
    stage.join(joined(10, 3))
    stage.join(joined(13, 5))
    stage.deliver(14)
    assert stage.given == [11, 12, 13, 14]


def test_another_epoch_is_told_as_a_loss_that_nobody_can_count(stage: Stage) -> None:
    stage.join(joined(10, 3))
    stage.deliver(1, epoch="new")
    assert (stage.given, stage.asked) == ([], 1)
    stage.join(joined(1, 1, epoch="new"))
    assert stage.given == [("lost", None), 1]
    stage.deliver(2, epoch="new")
    assert stage.given == [("lost", None), 1, 2]
    assert stage.shelves[b"news"].ring.epoch == "new"


def test_a_join_without_an_answer_does_not_fill_the_memory_and_does_not_hide_what_it_dropped(stage: Stage) -> None:
    stage.join(joined(0, 0))
    stage.deliver(*range(3, MOST_EARLY + 13))
    stage.join(joined(2, 2))
    assert stage.given[:3] == [1, 2, ("lost", 10)]
    assert len(stage.given) == MOST_EARLY + 3


def test_the_ring_of_an_engine_in_this_process_is_read_and_not_written(stage: Stage) -> None:
    ring = Ring("old", 5)
    stage.join(Joined("old", 5, ring=ring))
    assert stage.shelves[b"news"].ring is ring
    stage.deliver(6)
    assert (stage.given, len(ring)) == ([6], 0)


def test_a_channel_that_was_left_is_forgotten(stage: Stage) -> None:
    stage.shelves.expect(b"news")
    stage.join(joined(10, 3))
    stage.shelves.left(b"news")
    assert stage.shelves == {}
    stage.deliver(11)
    assert stage.given == [11]


def test_large_ones_that_come_before_the_answer_are_bounded_by_their_bytes(stage: Stage) -> None:
    stage.join(joined(10, 3))
    payload = b"x" * (MOST_EARLY_BYTES // 4)
    for offset in range(12, 22):
        stage.shelves.deliver(msgspec.structs.replace(publication(offset), payload=payload))
    stage.join(joined(12, 2))
    assert stage.given == [11, 12, ("lost", 5), 18, 19, 20, 21]


def test_a_position_that_may_be_on_its_way_here_is_not_known(stage: Stage) -> None:
    knows = stage.shelves.knows
    assert knows(b"news", "old.a"), "nothing is joined, so the join that comes will tell"
    stage.join(joined(10, 3))
    assert [knows(b"news", position) for position in ("old.1", "old.9", "old.a")] == [True] * 3
    assert [knows(b"news", position) for position in ("old.b", "new.1")] == [False] * 2
    assert knows(b"news", "nonsense"), "no engine gave that out"
    stage.deliver(11)
    assert knows(b"news", "old.b")


def test_the_engines_own_ring_has_all_that_there_is(stage: Stage) -> None:
    stage.join(Joined("old", 10, ring=Ring("old", 10)))
    assert stage.shelves.knows(b"news", "old.zzz")
