"""The timer wheel: nothing fires early, nothing is forgotten, whatever its tick and however long the pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.native._wheel import TimerWheel

BUCKETS = 1024
WRAP = 2**32


def drain(wheel: TimerWheel, now: int) -> list[int]:
    fired = []
    while (number := wheel.due(now % WRAP)) is not None:
        fired.append(number)
    return fired


@pytest.mark.parametrize("start", [1, 1000, WRAP - 500])
@pytest.mark.parametrize("delay", [1, 2, BUCKETS - 1, BUCKETS, BUCKETS + 1, 5 * BUCKETS])
def test_a_deadline_passes_at_its_tick_and_not_before(start: int, delay: int) -> None:
    wheel = TimerWheel(1, start)
    wheel.set(0, (start + delay) % WRAP)
    for now in range(start, start + delay):
        assert wheel.due(now % WRAP) is None
    assert drain(wheel, start + delay) == [0]
    assert drain(wheel, start + delay + 3 * BUCKETS) == []


def test_a_deadline_in_the_past_passes_at_the_next_tick() -> None:
    wheel = TimerWheel(2, 100)
    assert wheel.set(0, 50) == 101
    assert wheel.set(1, 100) == 101
    assert drain(wheel, 100) == []
    assert sorted(drain(wheel, 101)) == [0, 1]


@pytest.mark.parametrize("pause", [BUCKETS - 1, BUCKETS, BUCKETS + 1, 10 * BUCKETS + 7])
def test_after_a_long_pause_every_deadline_that_passed_is_found(pause: int) -> None:
    wheel = TimerWheel(500, 7)
    for number in range(500):
        wheel.set(number, 8 + number * 3)
    assert sorted(drain(wheel, 7 + pause)) == [n for n in range(500) if 8 + n * 3 <= 7 + pause]


def test_a_timer_set_for_the_tick_of_the_wrap_fires_once() -> None:
    wheel = TimerWheel(2, WRAP - 1)
    assert wheel.set(0, 0) == 1
    assert wheel.set(1, WRAP - 5) == 1
    assert drain(wheel, 0) == []
    assert sorted(drain(wheel, 1)) == [0, 1]


def test_a_stopped_timer_never_fires_and_its_neighbours_do() -> None:
    wheel = TimerWheel(5, 1)
    for number in range(5):
        wheel.set(number, 10 + (number % 2) * BUCKETS)
    for number in (0, 2, 3):
        wheel.stop(number)
        wheel.stop(number)
    assert drain(wheel, 10) == [4]
    assert drain(wheel, 10 + BUCKETS) == [1]


def test_a_timer_may_be_set_again_while_others_are_due() -> None:
    wheel = TimerWheel(3, 1)
    for number in range(3):
        wheel.set(number, 5)
    first = wheel.due(5)
    assert first is not None
    wheel.set(first, 6)
    assert len(drain(wheel, 5)) == 2
    assert drain(wheel, 6) == [first]


@given(
    st.integers(0, WRAP - 1),
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 7), st.integers(-3000, 5000)),
            st.tuples(st.just("stop"), st.integers(0, 7), st.just(0)),
            st.tuples(st.just("on"), st.just(0), st.integers(0, 4000)),
        ),
        max_size=60,
    ),
)
def test_any_sequence_fires_each_timer_once_when_it_is_due(start: int, steps: list[tuple[str, int, int]]) -> None:
    wheel = TimerWheel(8, start)
    now, due = start, dict[int, int]()
    for verb, number, value in steps:
        if verb == "set":
            got = wheel.set(number, (now + value) % WRAP)
            due[number] = max(now + value, now + 1)
            due[number] += due[number] % WRAP == 0  # 0 says that a timer is not set
            assert got == due[number] % WRAP
        elif verb == "stop":
            wheel.stop(number)
            due.pop(number, None)
        else:
            now += value
            expected = sorted(number for number, tick in due.items() if tick <= now)
            assert sorted(drain(wheel, now)) == expected
            for number in expected:
                del due[number]
