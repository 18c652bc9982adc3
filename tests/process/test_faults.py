"""Processes are killed, stopped and cut while numbered messages flow: what is lost is said, and service comes back.

The invariants of a broker of several workers, by name: I1 order, I2 no silent hole, I5 new connections are served,
I8 every end has a reason.
"""

import os
import signal
import time
from pathlib import Path

from tests.process.books import check_i7_log
from tests.process.command import PATIENCE_SECONDS, say_goodbye
from tests.process.flow import engine_of, flowing, json_client_of
from tests.process.inside import CUT_LINK, at_sigusr1
from tests.process.load import JsonClient
from tests.process.supervised import children, client_of, slowest_connect, workers

BACK_SECONDS = 2.0  # a killed engine


def test_i1_i2_what_is_published_at_every_worker_arrives_everywhere_in_one_order(tmp_path: Path) -> None:
    with flowing(tmp_path, count=3) as (_, flow):
        flow.goes_on(300)
        flow.settle()
        heard = [witness.heard for witness in flow.witnesses]
        assert None not in heard[0]
        common = [one for one in heard[0] if one in set(heard[1]) & set(heard[2])]
        assert len(common) > 900
        wanted = set(common)
        for other in heard:
            assert [one for one in other if one in wanted] == common, "one total order"


def test_i2_i5_an_engine_that_is_killed_is_back_in_two_seconds_and_every_subscriber_is_told(tmp_path: Path) -> None:
    with flowing(tmp_path) as (broker, flow):
        raw = [client_of(broker, pid, "news|recv") for pid in workers(broker).values()]
        pids = workers(broker).values()
        quiet = [JsonClient(broker, "quiet", client=json_client_of(broker, pid, "quiet")) for pid in pids]
        engine = engine_of(broker)
        os.kill(engine, signal.SIGKILL)
        killed = time.monotonic()
        for witness in flow.witnesses:
            witness.wait_for(None)
            assert witness.ended is None, "a JSON subscriber keeps its connection"
        for client in quiet:
            assert client.event() == {"type": "gap", "channel": "quiet", "missed": None}
        flow.goes_on(1)
        assert time.monotonic() - killed < BACK_SECONDS
        assert engine_of(broker) != engine
        flow.goes_on()
        flow.settle()
        for publisher in flow.publishers:
            assert {word for _, word in publisher.refused} <= {"engine_unavailable", "outcome_unknown"}
        assert any(publisher.refused for publisher in flow.publishers), "publishes fail loudly meanwhile"
        for reader in raw:
            assert say_goodbye(reader) == 1012, "a raw subscriber cannot be told: it is ended"
        for client in quiet:
            client.close()


def test_i2_i5_an_engine_that_is_stopped_is_replaced_and_nothing_hangs_for_ever(tmp_path: Path) -> None:
    with flowing(tmp_path, "stuck_seconds = 1.0") as (broker, flow):
        engine = engine_of(broker)
        os.kill(engine, signal.SIGSTOP)
        stopped = time.monotonic()
        for witness in flow.witnesses:
            witness.wait_for(None)
        flow.goes_on()
        assert time.monotonic() - stopped < 10
        assert engine_of(broker) != engine
        flow.settle()
        for publisher in flow.publishers:
            assert publisher.refused[0][1] == "outcome_unknown", "what was under way: nobody knows"


def test_i1_i2_i8_a_worker_that_is_killed_takes_its_own_clients_only(tmp_path: Path) -> None:
    with flowing(tmp_path, count=3) as (broker, flow):
        victim = workers(broker)[1]
        os.kill(victim, signal.SIGKILL)
        broker.logged("child accepts", 2, child="worker 1")
        assert slowest_connect(broker, 20) < 0.5
        for publisher in (flow.publishers[0], flow.publishers[2]):
            publisher.has_acked_more(100)
        flow.publishers[1].join(PATIENCE_SECONDS)
        assert flow.publishers[1].ended is not None
        assert flow.witnesses[1].ended is not None or not flow.witnesses[1].is_alive()
        flow.settle()
        for witness in (flow.witnesses[0], flow.witnesses[2]):
            assert None not in witness.heard, "nobody else lost anything"
            acked = set(flow.publishers[1].acked)
            heard = {number for name, number in filter(None, witness.heard) if name == "p1"}
            first = min(heard)
            assert {number for number in acked if number >= first} <= heard, "what was acknowledged arrived"


def test_i2_a_worker_that_is_stopped_for_a_while_misses_what_it_is_told_it_missed(tmp_path: Path) -> None:
    with flowing(tmp_path, "stuck_seconds = 30.0", count=2) as (broker, flow):
        stopped = workers(broker)[1]
        os.kill(stopped, signal.SIGSTOP)
        flow.publishers[0].has_acked_more(500)
        assert slowest_connect(broker, 20) < 0.5, "I5: the other takes its new clients"
        os.kill(stopped, signal.SIGCONT)
        flow.goes_on(100)
        flow.settle()
        assert None not in flow.witnesses[0].heard


def test_engines_that_die_one_after_the_other_lose_nobody_but_what_is_said(tmp_path: Path) -> None:
    with flowing(tmp_path) as (broker, flow):
        for _ in range(2):
            os.kill(engine_of(broker), signal.SIGKILL)
            flow.goes_on(20)
        flow.settle()
        for witness in flow.witnesses:
            assert witness.heard.count(None) >= 1


def test_i1_i2_a_link_that_is_cut_while_both_ends_live_costs_its_own_worker_only_and_is_told(tmp_path: Path) -> None:
    with flowing(tmp_path, extra=at_sigusr1(tmp_path, CUT_LINK)) as (broker, flow):
        before = sorted(children(broker))
        for times in (1, 2):
            os.kill(workers(broker)[1], signal.SIGUSR1)
            flow.witnesses[1].wait_until_missed(times)
            flow.goes_on()
        flow.settle()
        assert flow.witnesses[1].missed == [None, None]
        spared, cut = flow.publishers
        assert spared.refused == []
        assert {word for _, word in cut.refused} <= {"engine_unavailable", "outcome_unknown"}
        heard = flow.witnesses[0]
        assert heard.missed == [], "nobody else lost anything"
        for publisher in (spared, cut):
            numbers = {number for name, number in filter(None, heard.heard) if name == publisher.called}
            assert {number for number in publisher.acked if number >= min(numbers)} <= numbers
        assert sorted(children(broker)) == before, "nobody died"
    check_i7_log(broker)


def test_i2_an_engine_that_pauses_costs_time_and_nothing_else(tmp_path: Path) -> None:
    with flowing(tmp_path) as (broker, flow):
        engine = engine_of(broker)
        for _ in range(3):
            os.kill(engine, signal.SIGSTOP)
            assert slowest_connect(broker, 20) < BACK_SECONDS, "who wants what is there already need not ask"
            os.kill(engine, signal.SIGCONT)
            flow.goes_on()
        flow.settle()
        assert [witness.missed for witness in flow.witnesses] == [[], []]
        assert [publisher.refused for publisher in flow.publishers] == [[], []]
        assert engine_of(broker) == engine
    check_i7_log(broker)
