"""Live and ready, for every state a broker can be in, without one."""

import pytest

from broker.admin.health import Health, Process, live, ready

STUCK, START = 10.0, 30.0
WELL = Process("worker 0 (pid 7)", True, 0.05, linked=True)
OTHER = Process("worker 1 (pid 8)", True, 0.05, linked=True)
ENGINE = Process("engine (pid 6)", True, 0.05)


def health(
    *workers: Process,
    wanted: int = 2,
    leaving: tuple[Process, ...] = (),
    engine: tuple[Process, ...] | None = (ENGINE,),
    draining: bool = False,
    connections: int = 0,
    most: int = 0,
) -> Health:
    return Health(wanted, workers, leaving, engine, draining, connections, most, STUCK, START)


def test_a_broker_that_is_well_says_so() -> None:
    assert live(health(WELL, OTHER)) == (True, ["every event loop turns"])
    assert ready(health(WELL, OTHER)) == (True, ["2 of 2 workers accept", "the engine sequences"])
    assert ready(health(WELL, wanted=1, engine=None)) == (True, ["1 of 1 workers accept"])


def test_a_start_is_no_reason_to_start_again_and_not_ready_before_a_worker_accepts() -> None:
    nothing_yet = health(engine=())
    assert live(nothing_yet).well
    assert ready(nothing_yet) == (False, ["0 of 2 workers accept", "engine is starting"])
    engine_first = health(engine=(Process("engine (pid 6)", False, 1.0),))
    assert live(engine_first) == (True, ["every event loop turns", "engine (pid 6) is starting"])
    assert ready(engine_first).reasons == ["0 of 2 workers accept", "engine (pid 6) is starting"]
    workers_last = health(Process("worker 0 (pid 7)", False, START), Process("worker 1", False, START))
    assert live(workers_last).well
    assert ready(workers_last).reasons == [
        "0 of 2 workers accept",
        "worker 0 (pid 7) is starting",
        "worker 1 is starting",
    ]


def test_a_reload_whose_new_workers_take_the_clients_of_the_old_ones_is_not_full() -> None:
    """While those that came are empty, the others leave new clients to them, which looks like being full."""
    old = [one._replace(full=True) for one in (WELL, OTHER)]
    new = Process("worker 0 (pid 9)", True, 0.05, linked=True)
    assert ready(health(*old)) == (False, ["full: no worker takes more connections"])
    assert ready(health(*old, leaving=(new,))).well
    assert not ready(health(*old, leaving=(new._replace(full=True),))).well
    assert not ready(health(*old, leaving=(new._replace(ready=False),))).well


def test_what_does_not_come_up_in_its_time_is_not_live() -> None:
    late = health(WELL, Process("worker 1", False, START + 1))
    assert live(late) == (False, ["worker 1 has not been ready for 31.0 s"])


def test_a_worker_that_dies_makes_the_broker_neither_not_live_nor_not_ready() -> None:
    one_left = health(WELL, Process("worker 1", False, 0.2))
    assert live(one_left) == (True, ["every event loop turns", "worker 1 is starting"])
    assert ready(one_left) == (True, ["1 of 2 workers accept", "worker 1 is starting", "the engine sequences"])


@pytest.mark.parametrize(
    ("stuck", "said"),
    [
        (OTHER._replace(seconds=STUCK + 0.1), "worker 1 (pid 8) is stuck: its event loop has not turned for 10.1 s"),
        (OTHER._replace(stuck=True), "worker 1 (pid 8) is stuck: its event loop has not turned for 0.1 s"),
        (Process("worker 1", False, 0.3, stuck=True), "worker 1 was stuck and is being started again"),
    ],
    ids=["silent", "killed for it", "before its successor accepts"],
)
def test_a_stuck_worker_makes_the_broker_not_live_until_another_has_its_place(stuck: Process, said: str) -> None:
    assert live(health(WELL, stuck)) == (False, [said])
    assert live(health(WELL, OTHER, leaving=(stuck,))) == (False, [said]), "in a reload the one that leaves counts too"
    assert ready(health(WELL, stuck)).well
    assert ready(health(WELL, stuck)).reasons[0] == "1 of 2 workers accept"


def test_a_worker_that_is_silent_is_no_longer_counted_on_long_before_it_is_killed() -> None:
    silent = health(WELL._replace(seconds=2.1), OTHER._replace(seconds=1.9))
    assert live(silent).well
    assert ready(silent).reasons[:2] == [
        "1 of 2 workers accept",
        "worker 0 (pid 7) is silent: its event loop has not turned for 2.1 s",
    ]
    assert not ready(health(WELL._replace(seconds=2.1), OTHER._replace(seconds=2.1))).well


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (Process("engine", False, 0.1), "engine is starting"),
        (ENGINE._replace(seconds=2.5), "engine (pid 6) is silent: its event loop has not turned for 2.5 s"),
    ],
)
def test_without_an_engine_it_is_live_and_not_ready(engine: Process, said: str) -> None:
    unlinked = health(WELL._replace(linked=False), OTHER._replace(linked=False), engine=(engine,))
    assert live(unlinked).well
    assert ready(unlinked) == (False, [said])


def test_a_worker_without_its_link_has_clients_whose_publishes_fail() -> None:
    half = health(WELL, OTHER._replace(linked=False))
    assert live(half).well
    assert ready(half) == (False, ["worker 1 (pid 8) has no link to the engine"])


def test_from_the_signal_on_it_is_not_ready_and_it_stays_live_to_the_end() -> None:
    accepts_still = health(WELL, OTHER, draining=True)
    assert live(accepts_still).well
    assert ready(accepts_still) == (False, ["draining: the broker was told to end"])
    all_but_gone = health(draining=True, engine=())
    assert live(all_but_gone).well
    assert ready(all_but_gone) == (False, ["draining: the broker was told to end"])


def test_it_is_full_when_nobody_takes_more_and_not_before() -> None:
    assert ready(health(WELL._replace(full=True), OTHER)).well
    full = health(WELL._replace(full=True), OTHER._replace(full=True))
    assert live(full).well
    assert ready(full) == (False, ["full: no worker takes more connections"])


def test_it_is_full_at_the_limit_of_all_workers_together() -> None:
    assert ready(health(WELL, OTHER, connections=9, most=10)).well
    assert ready(health(WELL, OTHER, connections=9, most=0)).well
    full = health(WELL, OTHER, connections=10, most=10)
    assert live(full).well
    assert ready(full) == (False, ["full: 10 connections, limits.max_connections_total is 10"])
