"""A message that did not come is found, whichever way it went missing, and nothing else is taken for a loss."""

import pytest

from loadtests.locustfiles.ledger import CLOCKS_NS, Author, Checker, Count, Stamp, read_stamp

SECOND = 1_000_000_000


def stamps(count: int, author: str = "a", begin: int = SECOND) -> list[Stamp]:
    """One a second."""
    return [
        Stamp(author, number, begin + number * SECOND, begin + (number - 1) * SECOND if number else 0)
        for number in range(count)
    ]


def total(count: int, author: str = "a", begin: int = SECOND) -> dict[str, Count]:
    """What `stamps` has published."""
    return {author: Count(count, begin + (count - 1) * SECOND)}


@pytest.fixture
def checker() -> Checker:
    """Of somebody who is subscribed before anything is published."""
    checker = Checker("news")
    checker.begin(0)
    return checker


def hear(checker: Checker, heard: list[Stamp]) -> int:
    return sum(checker.hear(stamp) for stamp in heard)


def test_a_payload_says_who_sent_it_and_when_and_has_the_size_it_is_to_have() -> None:
    stamp = Stamp("0a1b2c3d", 17, 1_764_000_000_123_456_789, 1_764_000_000_000_000_001)
    payload = stamp.payload(120)
    assert len(payload) == 120
    assert read_stamp(payload) == stamp


@pytest.mark.parametrize("payload", ["", "hello", "a 1 2", "a one 2 3 ."])
def test_a_payload_of_somebody_else_is_no_message_of_this_test(payload: str) -> None:
    with pytest.raises(ValueError, match=r"no stamp|invalid literal"):
        read_stamp(payload)


def test_latency_is_what_lies_between_the_time_in_the_payload_and_its_arrival() -> None:
    author = Author()
    payload = author.stamp(5 * SECOND).payload(100)
    assert 5 * SECOND + 7_000_000 - read_stamp(payload).sent_ns == 7_000_000


def test_everything_that_came_in_order_is_no_loss(checker: Checker) -> None:
    assert hear(checker, stamps(5)) == 0
    assert checker.behind(total(5)) == 0
    assert checker.end(total(5)) == 0
    assert (checker.received, checker.lost, checker.repeated, checker.told) == (5, 0, 0, 0)


def test_messages_missing_in_the_middle_are_lost_as_soon_as_a_later_one_comes(checker: Checker) -> None:
    first, _, _, fourth, fifth = stamps(5)
    assert checker.hear(first) == 0
    assert checker.hear(fourth) == 2
    assert checker.hear(fifth) == 0
    assert checker.lost == 2


def test_the_last_messages_cannot_be_lost_unseen(checker: Checker) -> None:
    hear(checker, stamps(3))
    assert checker.behind(total(5)) == 2
    assert checker.end(total(5)) == 2
    assert checker.end(total(5)) == 0, "each is counted once"


def test_an_author_of_whom_nothing_came_at_all_is_missed(checker: Checker) -> None:
    assert checker.end(total(1, "silent")) == 1


def test_a_subscriber_that_came_later_misses_nothing_of_what_was_before() -> None:
    late = Checker("news")
    late.begin(3 * SECOND + SECOND // 2)
    assert hear(late, stamps(6)[3:]) == 0
    assert late.end(total(6)) == 0


def test_a_message_lost_between_the_subscription_and_the_first_that_came_is_found() -> None:
    late = Checker("news")
    late.begin(3 * SECOND + SECOND // 2)
    assert hear(late, stamps(6)[4:]) == 1


def test_clocks_that_differ_a_little_make_no_loss() -> None:
    late = Checker("news")
    late.begin(4 * SECOND - CLOCKS_NS // 2)
    assert hear(late, stamps(6)[4:]) == 0


def test_a_message_that_comes_twice_or_late_is_told_apart_from_a_loss(checker: Checker) -> None:
    first, second, third = stamps(3)
    for stamp in (first, second, second, third, first):
        assert checker.hear(stamp) == 0
    assert checker.repeated == 2


def test_what_the_broker_tells_to_be_missing_is_no_loss_and_one_more_is(checker: Checker) -> None:
    heard = stamps(10)
    checker.hear(heard[0])
    assert checker.gap(3) == 0
    assert checker.hear(heard[4]) == 0
    assert checker.hear(heard[6]) == 1
    assert (checker.told, checker.lost) == (3, 1)


def test_a_gap_excuses_messages_of_several_authors_together(checker: Checker) -> None:
    ours, theirs = stamps(4, "ours"), stamps(4, "theirs")
    hear(checker, [ours[0], theirs[0]])
    checker.gap(3)
    assert hear(checker, [ours[3], theirs[2], theirs[3]]) == 0
    assert checker.end({**total(4, "ours"), **total(4, "theirs")}) == 0


def test_a_gap_that_counts_one_too_few_leaves_a_loss(checker: Checker) -> None:
    ours, theirs = stamps(4, "ours"), stamps(4, "theirs")
    hear(checker, [ours[0], theirs[0]])
    checker.gap(2)
    assert hear(checker, [ours[3], theirs[2], theirs[3]]) == 1


def test_a_gap_of_unknown_size_begins_anew(checker: Checker) -> None:
    heard = stamps(9)
    checker.hear(heard[0])
    checker.gap(None)
    checker.begin(8 * SECOND)
    assert hear(checker, heard[7:]) == 0


def test_whoever_is_away_and_does_not_resume_misses_nothing_meanwhile(checker: Checker) -> None:
    heard = stamps(6)
    hear(checker, heard[:2])
    checker.leave()
    assert checker.behind(total(6)) == 0
    checker.begin(5 * SECOND + 1)
    assert hear(checker, heard[5:]) == 0


def test_whoever_resumes_is_to_hear_what_it_missed_as_well(checker: Checker) -> None:
    heard = stamps(6)
    hear(checker, heard[:2])
    assert hear(checker, heard[3:]) == 1


def test_nobody_misses_anything_before_being_subscribed() -> None:
    assert Checker("news").end(total(7)) == 0


def test_an_author_numbers_what_was_published_and_says_how_much_that_was() -> None:
    author = Author("a")
    for now in (1, 2, 3):
        assert author.stamp(now) == Stamp("a", now - 1, now, now - 1)
        author.published()
    assert author.counts() == {"a": Count(3, 3)}


def test_a_publish_that_was_refused_is_missed_by_nobody(checker: Checker) -> None:
    author = Author()
    heard = [author.stamp(SECOND)]
    author.published()
    author.stamp(2 * SECOND)
    author.unknown()
    heard.append(author.stamp(3 * SECOND))
    author.published()
    assert hear(checker, heard) == 0
    assert checker.end(author.counts()) == 0


def test_a_publish_of_unknown_outcome_may_have_come_all_the_same(checker: Checker) -> None:
    author = Author()
    first = author.stamp(SECOND)
    author.published()
    second = author.stamp(2 * SECOND)
    author.unknown()
    assert hear(checker, [first, second]) == 0
    assert checker.behind(author.counts()) == 0
    assert (checker.end(author.counts()), checker.repeated) == (0, 0)


def test_an_author_that_published_nothing_counts_for_nothing() -> None:
    author = Author()
    author.stamp(SECOND)
    author.unknown()
    assert author.counts() == {}
