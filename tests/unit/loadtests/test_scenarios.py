"""Every scenario runs end to end in a small size, against a real broker, and notices when the broker misbehaves.

Sizes are so small that times mean nothing; what is asserted must hold at any size: everything arrives, nobody is cut.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from loadtests import beside, churn, footprint, http_publish, nchan, stalled, tiny
from loadtests.crowd import Crowd, Spec
from loadtests.report import Result
from loadtests.server import ROOT, BenchError, Server, need_files, wait_until
from loadtests.wire import client_frame, open_many


def quiet(line: str) -> None:
    """Nobody reads the progress of a test."""


def value(result: Result, name: str) -> float:
    return next(row.value for row in result.rows if row.name == name)


def test_beside_measures_all_three_and_every_message_arrives() -> None:
    size = beside.Size(subscribers=60, quiet_seconds=0.3, busy_seconds=0.6, bulk_period_seconds=0.1)
    result = beside.run(size, quiet)
    assert result.failures == []
    assert value(result, "subscribers of the huge channel") == 60
    assert value(result, "messages to each of them") >= 5
    assert {"busy: small channel, p99", "busy: accept, p99", "busy: loop, by /healthz, p99"} <= {
        row.name for row in result.rows
    }


def test_tiny_delivers_every_byte_in_order_and_cuts_nobody() -> None:
    result = tiny.run(tiny.Size(readers=8, messages=3000), quiet)
    assert result.ok, result
    assert value(result, "readers cut") == 0


def test_footprint_asks_each_kind_of_connection_and_each_size_of_message() -> None:
    result = footprint.run(footprint.Size(idle=20, readers=10, messages=2, payloads=(128, 16_384)), quiet)
    assert result.failures == []
    # Five kinds and the kernel's share; one message and many of the small size, one of the large.
    assert len(result.rows) == 9


def test_stalled_runs_its_pair_and_healthy_readers_miss_nothing() -> None:
    size = stalled.Size(healthy=16, stalled=16, sampled=2, seconds=0.6, pairs=1)
    result = stalled.run(size, quiet)
    assert result.failures == []
    assert value(result, "p99 stalled / control") > 0


def test_a_stalled_reader_makes_the_kernel_hold_something_and_no_more_than_stated() -> None:
    size = stalled.Size(healthy=8, stalled=8, sampled=1, seconds=1.0, pairs=1)
    found = stalled.measure(size, stall=True)
    assert found.failures == []
    assert 0 < found.most_unsent_bytes <= 2 * stalled.NOTSENT_LOWAT_BYTES


def test_churn_leaves_no_file_descriptor() -> None:
    result = churn.run(churn.Size(marks=(40, 120), at_once=10), quiet)
    assert result.failures == []
    assert value(result, "file descriptors left after 40") == value(result, "file descriptors left after 120") == 0


@pytest.mark.parametrize("listening", [False, True])
def test_http_publish_delivers_every_message_of_both_ways(listening: bool) -> None:
    with Server() as server:
        single, batched = http_publish.own_ways(server, http_publish.Size(singles=20, batches=3))
        assert (single.messages, batched.messages) == (1, 100)
        assert min(http_publish.cost(way, listening) for way in (single, batched)) > 0
        assert server.stop() == []


def test_http_publish_measures_nothing_that_does_not_arrive() -> None:
    with Server() as server:
        single, _ = http_publish.own_ways(server, http_publish.Size(singles=2))
        elsewhere = replace(single, request=single.request.replace(b"/news/", b"/else/"))
        with pytest.raises(BenchError, match="one by one: the subscriber got 0 of 244 bytes"):
            http_publish.cost(elsewhere, listening=True, arrival_seconds=0.1)
        with pytest.raises(BenchError, match=r"a publish was answered b.HTTP/1\.1 401 Unauthorized"):
            http_publish.cost(replace(single, request=single.request.replace(b"Bearer w", b"Bearer x")), False)


def test_without_nchan_http_publish_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nchan, "NGINX", ("/nonexistent/nginx",))
    with pytest.raises(BenchError, match="apt-get install nginx libnginx-mod-nchan"):
        nchan.program()


def test_readers_that_the_broker_cuts_are_told_with_the_code() -> None:
    with Server("close_seconds = 0.2\n") as server, Crowd(Spec(server.address, {"news|recv": 3})) as crowd:
        assert crowd.opened().readers == 3
        assert server.stop() == []
        count = crowd.wait_for(lambda count: count.ended == 3, 10)
    assert count.endings == {"close 1001": 3}


def test_a_reader_whose_bytes_are_wrong_is_noticed() -> None:
    with Server() as server, Crowd(Spec(server.address, {"news|recv": 2}, numbered=2)) as crowd:
        crowd.opened()
        (publisher,) = open_many(server.address, ["news|send"])
        publisher.send(client_frame(b"00000000") + client_frame(b"00000009"))
        count = crowd.wait_for(lambda count: count.fewest_bytes == 20, 10)
        publisher.close()
    assert (count.garbled, count.ended) == (2, 0)


def test_whoever_measures_never_takes_the_cpu_of_the_broker() -> None:
    before = os.sched_getaffinity(0)
    with Server() as server, Crowd(Spec(server.address, {"news|recv": 1})) as crowd:
        crowd.opened()
        brokers = os.sched_getaffinity(server.pid)
        load = os.sched_getaffinity(0)
        assert len(brokers) == 1 or len(before) == 1
        assert brokers | load == before
        assert not brokers & load or len(before) == 1
        assert os.sched_getaffinity(crowd.pid) == load
    assert os.sched_getaffinity(0) == before


def test_a_broker_that_dies_is_reported_and_not_measured_on() -> None:
    with Server() as server:
        os.kill(server.pid, signal.SIGKILL)
        assert wait_until(lambda: "died" in "".join(server.stop()), 10)


def test_a_broker_that_cannot_start_says_why() -> None:
    with pytest.raises(BenchError, match=r"limits\.nonsense: unknown key"):
        Server("nonsense = 1\n")


def test_a_refused_connection_stops_the_scenario_with_the_answer() -> None:
    with Server() as server, pytest.raises(ConnectionRefusedError, match=r"HTTP/1\.1 4"):
        list(open_many(server.address, ["no*name"]))


def test_readers_that_cannot_connect_say_why() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with Crowd(Spec(bound.getsockname(), {"news": 1})) as crowd, pytest.raises(BenchError, match="refused"):
            crowd.opened()


def test_a_machine_that_allows_too_few_files_is_told_what_to_do() -> None:
    with pytest.raises(BenchError, match=r"needs \d+ open files .* --scale"):
        need_files(2**40)


def test_the_command_prints_one_json_document_and_ends_with_its_verdict() -> None:
    command = [sys.executable, "loadtests/bench.py", "--quick", "--json", "tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    told = json.loads(done.stdout)
    assert told["ok"] is (done.returncode == 0) is True, done.stderr
    assert [scenario["scenario"] for scenario in told["scenarios"]] == ["tiny"]
