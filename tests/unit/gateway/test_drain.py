"""How a worker sends a crowd away: when each is told, in which order, and what it is told. The clock is the test's."""

import asyncio
import bisect
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, cast

import pytest

from broker.config.schema import Drain as Settings
from broker.gateway.drain import PAGE_PLACES, STEP_SECONDS, Drain, Pace
from broker.gateway.refusals import cause_word
from broker.native._reactor import Reactor


class Told(NamedTuple):
    """What one connection was told last."""

    at: float
    conn: int
    verb: str
    event: bytes
    payload: bytes

    @property
    def in_ms(self) -> int:
        found = re.fullmatch(rb"\x03\xf4code=service_restart;in_ms=(\d+);the server restarts", self.payload)
        assert found, self.payload
        return int(found[1])


class Crowd:
    """A reactor's connections, by state; and the clock, which moves when somebody sleeps."""

    def __init__(self, count: int, state: str = "open") -> None:
        self.now = 1000.0
        self.states = dict.fromkeys(range(1, count + 1), state)
        self.told: list[Told] = []
        self.asked: list[int] = []
        self.slept: list[float] = []
        self.while_asleep: Callable[[], object] = lambda: None
        self.places = count + 1

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.while_asleep()

    @property
    def connections(self) -> int:
        return len(self.states)

    def ids(self, first: int, most: int) -> list[int]:
        self.asked.append(most)
        return [conn for conn in range(first, first + most) if conn in self.states]

    def state(self, conn: int) -> str | None:
        return self.states.get(conn)

    def _told(self, verb: str, states: tuple[str, ...], conn: int, event: bytes, payload: bytes, cause: int) -> bool:
        if self.states.get(conn) not in states:
            return False
        assert cause_word(cause) == "service_restart"
        self.told.append(Told(self.now - 1000, conn, verb, event, payload))
        del self.states[conn]
        return True

    def close_after(self, conn: int, event: bytes, payload: bytes, cause: int) -> bool:
        return self._told("close_after", ("open",), conn, event, payload, cause)

    def turn_away(self, conn: int, response: bytes, cause: int) -> bool:
        return self._told("turn_away", ("head", "deciding"), conn, b"", response, cause)

    def close(self, conn: int, payload: bytes, cause: int) -> bool:
        return self._told("close", ("open", "held"), conn, b"", payload, cause)


async def drained(crowd: Crowd, hasten: asyncio.Event | None = None, seed: int = 1, **settings: float) -> list[Told]:
    given = Settings(**settings)  # type: ignore[arg-type]
    drain = Drain(
        cast("Reactor", crowd),
        given,
        hasten or asyncio.Event(),
        clock=crowd.clock,
        sleep=crowd.sleep,
        chance=random.Random(seed),
    )
    await drain.run()
    return crowd.told


def most_within(told: list[Told], seconds: float) -> int:
    """The most that were told within any `seconds`."""
    times = [each.at for each in told]
    return max(bisect.bisect_left(times, since + seconds) - index for index, since in enumerate(times))


@pytest.mark.parametrize(("count", "window"), [(10, 10.0), (1000, 10.0), (3000, 3.0), (7, 0.1)])
async def test_pages_leave_evenly_over_the_window(count: int, window: float) -> None:
    crowd = Crowd(count)
    told = await drained(crowd, window_seconds=window)
    assert sorted(each.conn for each in told) == list(range(1, count + 1))
    for tenth in range(1, 11):
        gone = sum(each.at < window * tenth / 10 - 1e-6 for each in told)
        assert abs(gone - count * tenth / 10) <= 1 + count * 1.5 * STEP_SECONDS / window
    assert told[0].at == 0
    assert told[-1].at <= window + STEP_SECONDS


async def test_who_connected_together_does_not_leave_together() -> None:
    orders = [[each.conn for each in await drained(Crowd(100), seed=seed)] for seed in (1, 2)]
    neighbours = [sum(abs(one - other) == 1 for one, other in pairwise(order)) for order in orders]
    assert max(neighbours) < 10
    assert orders[0] != orders[1]


async def test_more_pages_than_the_others_can_take_in_get_a_longer_window() -> None:
    told = await drained(Crowd(5000), window_seconds=1.0, closes_per_second=500)
    assert len(told) == 5000
    assert most_within(told, 1.0) <= 500 * (1 + 2 * STEP_SECONDS)
    assert 9.5 <= told[-1].at <= 10.5


async def test_a_cap_below_one_a_step_holds_too() -> None:
    told = await drained(Crowd(10), window_seconds=0.1, closes_per_second=2)
    assert most_within(told, 1.0) <= 3
    assert len(told) == 10


async def test_a_process_that_was_stopped_for_a_while_does_not_make_up_for_it_by_a_burst() -> None:
    crowd = Crowd(5000)

    def stall() -> None:
        if 3 < crowd.now - 1000 < 4:
            crowd.now += 4

    crowd.while_asleep = stall
    told = await drained(crowd, window_seconds=10.0, closes_per_second=1000)
    assert len(told) == 5000
    assert most_within(told, 1.0) <= 1000 * (1 + 2 * STEP_SECONDS)
    assert told[-1].at <= 12


async def test_a_second_signal_leaves_the_others_to_be_closed_at_once() -> None:
    crowd, hasten = Crowd(1000), asyncio.Event()

    def signal() -> None:
        if crowd.now >= 1005:
            hasten.set()

    crowd.while_asleep = signal
    told = await drained(crowd, hasten, window_seconds=10.0)
    assert abs(len(told) - 500) <= 10
    assert len(crowd.states) == 1000 - len(told)


async def test_event_and_close_tell_each_page_the_same_moment_to_come_back_and_others_another() -> None:
    told = await drained(Crowd(1000), reconnect_seconds=2.0)
    for each in told:
        assert json.loads(each.event) == {"type": "drain", "reconnect_in_ms": each.in_ms}
    quarters = Counter(each.in_ms // 500 for each in told)
    assert set(quarters) == {0, 1, 2, 3}
    assert min(quarters.values()) > 150


async def test_without_a_reconnect_time_pages_come_back_at_once() -> None:
    assert {each.in_ms for each in await drained(Crowd(10), reconnect_seconds=0.0)} == {0}


async def test_handshakes_come_last_and_end_as_far_as_they_have_come() -> None:
    crowd = Crowd(100)
    crowd.states |= {1: "head", 2: "deciding", 3: "head", 4: "held"}
    crowd.while_asleep = lambda: crowd.states.update({3: "open"})  # its request comes during the window
    told = await drained(crowd, window_seconds=10.0)
    last = {each.conn: each for each in told[-4:]}
    assert {conn: each.verb for conn, each in last.items()} == {
        1: "turn_away",
        2: "turn_away",
        3: "close_after",
        4: "close",
    }
    for conn in (1, 2):
        assert last[conn].payload.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in last[conn].payload
    assert last[3].in_ms <= 2000
    assert last[4].in_ms <= 2000


async def test_who_leaves_by_itself_is_not_told_and_not_waited_for() -> None:
    crowd = Crowd(100)

    def leave() -> None:
        if crowd.now >= 1005:
            crowd.states.clear()

    crowd.while_asleep = leave
    told = await drained(crowd, window_seconds=10.0)
    assert 49 <= len(told) <= 51
    assert crowd.now <= 1005.2


@pytest.mark.parametrize("count", [0, 1])
async def test_a_worker_with_hardly_anybody_does_not_wait(count: int) -> None:
    crowd = Crowd(count)
    assert len(await drained(crowd)) == count
    assert crowd.slept == []


async def test_a_hundred_thousand_are_listed_by_the_page() -> None:
    crowd = Crowd(3 * PAGE_PLACES)
    hasten = asyncio.Event()
    hasten.set()
    await drained(crowd, hasten)
    assert crowd.asked == [PAGE_PLACES] * 4


def test_the_window_is_what_was_asked_for_or_what_the_cap_makes_of_it() -> None:
    assert Pace(100, 10.0, 2000, 0.0).seconds == 10.0
    assert Pace(100_000, 10.0, 2000, 0.0).seconds == 50.0
