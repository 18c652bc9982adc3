"""Who is killed for being stuck and how often one is started again, by a clock of the test."""

import pytest

from broker.supervisor.rules import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Judge, Restarts

STUCK = 5.0
TICK = 0.25


def verdicts(judge: Judge, begin: float, end: float, beats: dict[int, float | None]) -> list[tuple[float, int]]:
    """Looks every tick; None = a child that beats all the time, a number = the moment of its last heartbeat."""
    found = []
    now = begin
    while now < end:
        stuck = judge.stuck(now, {key: now if beat is None else beat for key, beat in beats.items()})
        if stuck is not None:
            found.append((now, stuck))
            beats.pop(stuck)
        now += TICK
    return found


def test_a_child_that_beats_is_never_killed() -> None:
    assert verdicts(Judge(STUCK), 0, 100, {1: None, 2: None}) == []


def test_a_silent_child_is_killed_once_it_has_been_silent_too_long() -> None:
    assert verdicts(Judge(STUCK), 0, 100, {1: None, 2: 10.0}) == [(15.25, 2)]


def test_of_several_silent_ones_one_at_a_time_is_killed_and_the_longest_silent_first() -> None:
    assert verdicts(Judge(STUCK), 0, 100, {1: 11.0, 2: 10.0, 3: 12.0}) == [(15.25, 2), (20.25, 1), (25.25, 3)]


def test_after_a_pause_of_the_whole_machine_everybody_has_as_long_again() -> None:
    judge = Judge(STUCK)
    assert verdicts(judge, 0, 10, {1: None, 2: None}) == []
    # An hour in which nobody ran; then one comes back and the other does not.
    assert verdicts(judge, 3600, 3604.9, {1: 9.75, 2: 9.75}) == []
    assert verdicts(judge, 3605, 3620, {1: None, 2: 9.75}) == [(3605.25, 2)]


@pytest.mark.parametrize("pause", [0.5, 1.0, 2.0, 2.5])
def test_a_pause_too_short_to_be_noticed_is_too_short_to_be_killed_for(pause: float) -> None:
    judge = Judge(STUCK)
    verdicts(judge, 0, 10, {1: None})
    assert judge.stuck(10 + pause, {1: 9.75}) is None
    assert judge.stuck(10 + pause + TICK, {1: 10 + pause}) is None


def test_pauses_that_go_on_save_nobody_who_is_silent_between_them() -> None:
    judge = Judge(STUCK)
    now, looks = 0.0, 0
    while judge.stuck(now, {1: 0.0}) is None:
        now += STUCK / 2  # as late as it may be without pardon
        looks += 1
        assert looks < 10


def test_a_child_that_lived_is_started_again_at_once() -> None:
    rules = Restarts(5, 10.0)
    assert [rules.after_death(10.0) for _ in range(20)] == [0.0] * 20


def test_early_deaths_are_waited_for_longer_each_time_and_then_given_up() -> None:
    rules = Restarts(9, 10.0, chance=lambda low, high: high)
    waits = [rules.after_death(9.9) for _ in range(9)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, None]
    assert (FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS) == (0.1, 5.0)


def test_a_child_that_was_never_ready_died_early_however_long_it_took() -> None:
    rules = Restarts(2, 10.0)
    assert rules.after_death(None) is not None
    assert rules.after_death(None) is None


def test_a_life_in_between_makes_up_for_early_deaths() -> None:
    rules = Restarts(3, 10.0)
    for _ in range(10):
        assert rules.after_death(1.0) is not None
        assert rules.after_death(1.0) is not None
        assert rules.after_death(60.0) == 0.0


def test_children_that_died_together_do_not_come_back_together() -> None:
    waits = {Restarts(5, 10.0).after_death(1.0) for _ in range(20)}
    assert len(waits) > 10
    assert all(wait is not None and 0.05 <= wait <= 0.1 for wait in waits)
