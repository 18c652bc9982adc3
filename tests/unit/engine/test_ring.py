"""Positions and rings: what a channel keeps, and where somebody who comes back begins."""

import pytest

from broker.engine.base import HistoryRule, Publication
from broker.engine.ring import ENTRY_BYTES, MAX_OFFSET, Ring, position_of, read_position
from broker.protocol.position import is_position

RULE = HistoryRule(5, 60.0, 1000)


def publication(offset: int, payload: bytes = b"x", time_ms: int = 1000) -> Publication:
    return Publication(b"news", 1, payload, b"", offset=offset, epoch="abcde", time_ms=time_ms)


def filled(count: int, start: int = 0) -> Ring:
    ring = Ring("abcde", start)
    for offset in range(start + 1, start + count + 1):
        ring.append(publication(offset))
    return ring


def offsets(page: list[Publication]) -> list[int]:
    return [one.offset for one in page]


@pytest.mark.parametrize("offset", [0, 1, 35, 36, 1042, 10**12, MAX_OFFSET])
def test_a_position_comes_back_as_what_it_was_and_fits_into_an_offer(offset: int) -> None:
    position = position_of("8f3az", offset)
    assert is_position(position)
    assert read_position(position) == ("8f3az", offset)


@pytest.mark.parametrize("text", ["", "8f3a", ".", "8f3a.", ".1", "8f3a.-1", "8f3a.1_0", "8f3a.~", "a.00000000001"])
def test_what_no_engine_gave_out_is_no_position(text: str) -> None:
    assert read_position(text) is None


def test_a_ring_keeps_the_newest_of_its_rule() -> None:
    ring = filled(8)
    ring.trim(RULE, 1000)
    assert (ring.start, ring.head, len(ring)) == (3, 8, 5)
    assert offsets(ring.after(3, 100, 1000)) == [4, 5, 6, 7, 8]


def test_what_is_too_old_goes_even_if_nothing_new_comes() -> None:
    ring = Ring("abcde", 0)
    ring.append(publication(1, time_ms=1_000))
    ring.append(publication(2, time_ms=50_000))
    ring.trim(RULE, 61_000)
    assert offsets(ring.after(1, 10, 100)) == [2]
    ring.trim(RULE, 200_000)
    assert (len(ring), ring.start, ring.head, ring.size, ring.cost) == (0, 2, 2, 0, 0)


def test_large_payloads_push_out_more_than_one() -> None:
    ring = Ring("abcde", 0)
    for offset in range(1, 5):
        ring.append(publication(offset, bytes(300)))
    ring.trim(RULE, 1000)
    assert (ring.start, ring.size) == (1, 900)
    ring.append(publication(5, bytes(1001)))
    ring.trim(RULE, 1000)
    assert (ring.start, ring.head, len(ring)) == (5, 5, 0)


def test_a_page_ends_at_its_count_or_its_bytes_but_is_never_empty() -> None:
    ring = filled(10)
    assert offsets(ring.after(2, 3, 1000)) == [3, 4, 5]
    assert offsets(ring.after(2, 100, 2)) == [3, 4]
    assert offsets(ring.after(9, 100, 0)) == [10]
    assert ring.after(10, 100, 1000) == []


def test_costs_are_what_is_there_however_much_has_gone() -> None:
    ring = Ring("abcde", 0)
    for offset in range(1, 1001):
        ring.append(publication(offset, b"abc"))
        ring.trim(RULE, 1000)
    assert (ring.size, ring.cost) == (15, 5 * (ENTRY_BYTES + 3))
    assert offsets(ring.after(ring.start, 100, 1000)) == [996, 997, 998, 999, 1000]


def test_a_hole_makes_everything_before_it_useless_and_a_repeat_changes_nothing() -> None:
    ring = filled(3)
    ring.append(publication(2))
    ring.append(publication(3))
    assert (ring.start, ring.head) == (0, 3)
    ring.append(publication(7))
    assert (ring.start, ring.head, len(ring)) == (6, 7, 1)


@pytest.mark.parametrize(
    ("since", "last", "cursor", "complete"),
    [
        (None, None, 20, True),
        ("abcde.c", None, 12, True),  # 12
        ("abcde.a", None, 10, True),  # everything that is kept, and nothing before it
        ("abcde.k", None, 20, True),  # nothing missed
        ("abcde.9", None, 20, False),  # one too old
        ("abcde.l", None, 20, False),  # not given out yet: another life
        ("other.c", None, 20, False),
        ("nonsense", None, 20, False),
        ("other.c", 3, 17, False),
        ("abcde.c", 3, 12, True),
        (None, 3, 17, True),
        (None, 999, 10, True),
        (None, 0, 20, True),
    ],
)
def test_where_somebody_who_comes_back_begins(since: str | None, last: int | None, cursor: int, complete: bool) -> None:
    ring = filled(10, start=10)
    assert ring.cursor_of(since, last) == (cursor, complete)


def test_an_empty_channel_has_a_position_that_is_worth_something() -> None:
    ring = Ring("abcde", 7)
    assert ring.cursor_of(ring.position, None) == (7, True)
    position = ring.position
    ring.append(publication(8))
    assert ring.cursor_of(position, None) == (7, True)
