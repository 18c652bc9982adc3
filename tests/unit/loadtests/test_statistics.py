"""Percentiles are measured values, and a ratio of pairs is not moved by one bad pair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.statistics import Latency, latency, median, paired_interval, paired_ratio, percentile, typical_p99

SAMPLES = st.lists(st.integers(0, 10**9), min_size=1)


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [([7], 50, 7), ([1, 2], 50, 1), ([3, 1, 2], 50, 2), (range(1, 101), 99, 99), (range(1, 1001), 99, 990)],
)
def test_a_percentile_is_the_nearest_rank(samples: list[int], percent: float, expected: int) -> None:
    assert percentile(samples, percent) == expected


def test_one_slow_sample_in_a_hundred_is_not_in_p99_and_two_are() -> None:
    assert percentile([1] * 99 + [100], 99) == 1
    assert percentile([1] * 98 + [100, 100], 99) == 100


@given(SAMPLES, st.floats(0.1, 100))
def test_a_percentile_was_measured_and_is_not_exceeded_by_its_share(samples: list[int], percent: float) -> None:
    found = percentile(samples, percent)
    assert found in samples
    # The rank is rounded up in floating point, hence the hair's breadth.
    assert sum(sample <= found for sample in samples) >= len(samples) * percent / 100 - 1e-9


@given(SAMPLES)
def test_the_hundredth_percentile_is_the_longest(samples: list[int]) -> None:
    assert percentile(samples, 100) == max(samples)


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_a_percentile_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="is no percentile"):
        percentile([1], percent)


def test_nothing_measured_is_an_error_and_not_a_good_number() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 99)
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_latency_is_told_in_milliseconds() -> None:
    assert latency([1_000_000] * 98 + [5_000_000, 9_000_000]) == Latency(100, 1.0, 5.0, 9.0)


@pytest.mark.parametrize(("values", "middle"), [([5], 5), ([9, 1, 5], 5), ([1, 2, 3, 10], 2.5)])
def test_the_median_is_the_middle(values: list[float], middle: float) -> None:
    assert median(values) == middle


def test_one_disturbed_pair_does_not_move_the_ratio() -> None:
    assert paired_ratio([(2.0, 2.0), (100.0, 1.0), (3.0, 3.0)]) == 1.0


def test_one_bad_second_does_not_move_the_typical_one_and_a_bad_majority_does() -> None:
    second, ms = 1_000_000_000, 1_000_000
    assert typical_p99([(0, ms), (second, 900 * ms), (2 * second, 3 * ms)]) == 3.0
    assert typical_p99([(0, ms), (second, 900 * ms), (second + 5, ms), (2 * second, 800 * ms)]) == 800.0


def test_one_disturbed_pair_of_nine_does_not_move_the_interval() -> None:
    calm = [(1.0 + number / 100, 1.0) for number in range(8)]
    low, high = paired_interval([*calm, (40.0, 1.0)])
    assert (low, high) == (1.01, 1.07)


def test_few_pairs_have_an_interval_as_wide_as_they_are() -> None:
    assert paired_interval([(2.0, 1.0), (1.0, 2.0), (3.0, 3.0)]) == (0.5, 2.0)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_interval([])
