"""Token buckets: what may be sent at once, what in the long run, and that a bucket needs nobody to refill it."""

import pytest

from broker.native._rate import Bucket

SECOND = 1_000_000_000


def test_a_new_client_may_send_its_burst_and_not_one_more() -> None:
    bucket = Bucket(10, 5)
    assert [bucket.take(1, 7 * SECOND) for _ in range(6)] == [True] * 5 + [False]


def test_a_client_that_keeps_to_the_rate_is_never_refused() -> None:
    bucket = Bucket(10, 1)
    assert all(bucket.take(1, i * SECOND // 10) for i in range(1000))


def test_who_was_refused_has_lost_nothing_and_waits_for_one_unit_only() -> None:
    bucket = Bucket(10, 5)
    assert bucket.take(5, 0)
    assert not any(bucket.take(1, SECOND // 10 - 1) for _ in range(100))
    assert bucket.take(1, SECOND // 10)
    assert not bucket.take(1, SECOND // 10)


def test_a_client_that_was_idle_for_a_year_has_a_burst_and_not_a_year() -> None:
    bucket = Bucket(1000, 5000)
    assert bucket.take(5000, 0)
    year = 365 * 86_400 * SECOND
    assert bucket.take(5000, year)
    assert not bucket.take(1, year)


def test_without_a_rate_nothing_is_refused() -> None:
    bucket = Bucket(0, 1)
    assert all(bucket.take(2**32, 0) for _ in range(100))


@pytest.mark.parametrize("number", [1, 2**32])
def test_the_largest_numbers_do_not_overflow(number: int) -> None:
    bucket = Bucket(number, 2**32)
    assert bucket.take(2**32, 10 * 365 * 86_400 * SECOND)
    assert not bucket.take(2**32, 10 * 365 * 86_400 * SECOND)


def test_numbers_that_would_overflow_are_refused() -> None:
    for per_second, burst in ((2**32 + 1, 1), (1, 2**32 + 1)):
        with pytest.raises(ValueError, match=r"at most 2\*\*32"):
            Bucket(per_second, burst)
    with pytest.raises(ValueError, match=r"at most 2\*\*32"):
        Bucket(1, 1).take(2**32 + 1, 0)
