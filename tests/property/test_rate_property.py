"""A token bucket agrees with the naive one that counts its tokens in fractions."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from broker.native._rate import Bucket

SECOND = 1_000_000_000
STEPS = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 200_000)), max_size=60)


@given(st.integers(1, 10_000_000), st.integers(1, 100_000), STEPS)
def test_a_bucket_of_eight_bytes_is_the_naive_one(per_second: int, burst: int, steps: list[tuple[int, int]]) -> None:
    bucket, tokens, now = Bucket(per_second, burst), Fraction(burst), 0
    # The bucket rounds each step down to a nanosecond; only a request that close to the edge may end either way.
    slack = Fraction(2 * (len(steps) + 1) * per_second, SECOND)
    for pause, units in steps:
        now += pause
        tokens = min(Fraction(burst), tokens + Fraction(pause * per_second, SECOND))
        took = bucket.take(units, now)
        if abs(tokens - units) > slack:
            assert took == (tokens > units)
        if took:
            tokens -= units
