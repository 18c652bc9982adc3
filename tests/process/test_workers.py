"""Several workers under a supervisor: what clients notice when one of them hangs or dies, and what stays behind."""

import os
import re
import signal
import socket
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.client_frames import TEXT, close, frame
from tests.integration.harness import request
from tests.log_lines import of_event
from tests.process.command import Served, read_end, read_frame, run, say_goodbye, serving
from tests.process.supervised import (
    A_WORKER,
    LATEST_CONNECT_SECONDS,
    all_gone,
    children,
    client_of,
    configuration,
    slowest_connect,
    worker_of,
    workers,
)
from tests.process.systemd import messages_so_far, next_message, notifications

CANNOT_RUN = 1
# A worker that is stopped by a test is to stay: nobody judges it within the time of the test.
PATIENT = "stuck_seconds = 3600.0"


def test_every_worker_accepts_by_the_time_the_page_is_named(tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path)) as broker:
        assert sorted(workers(broker)) == [0, 1, 2]
        for pid in children(broker):
            assert os.getpgid(pid) == pid, "a terminal's Ctrl-C would reach it"
        for pid in workers(broker).values():
            client = client_of(broker, pid)
            client.sendall(frame(TEXT, b"hello"))
            assert read_frame(client) == (TEXT, b"hello")
            client.close()
        assert broker.stop() == 0


def test_auto_starts_as_many_workers_as_this_process_may_use_processors(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    with serving("--workers", "auto", prefix=["taskset", "-c", str(cpu)]) as broker:
        assert children(broker) == []  # one: in the main process
        assert broker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_end_says_goodbye_to_the_clients_of_every_worker(number: int, tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path)) as broker:
        clients = [client_of(broker, pid) for pid in workers(broker).values()]
        begun = [os.pidfd_open(pid) for pid in children(broker)]
        broker.signal(number)
        assert [say_goodbye(client) for client in clients] == [1001] * 3
        assert broker.status() == 0
        assert all_gone(begun, 0)
        assert broker.complaints == []
        with pytest.raises(ConnectionRefusedError):
            broker.connect()
        for pidfd in begun:
            os.close(pidfd)


def test_nobody_is_left_waiting_while_a_worker_is_stopped(tmp_path: Path) -> None:
    with serving("--workers", "4", *configuration(tmp_path, PATIENT)) as broker:
        slowest_connect(broker, 50)
        stopped = workers(broker)[1]
        os.kill(stopped, signal.SIGSTOP)
        assert slowest_connect(broker, 400) < LATEST_CONNECT_SECONDS
        os.kill(stopped, signal.SIGCONT)
        assert not of_event(broker.errors, "child is stuck and is killed")
        assert broker.stop() == 0


def test_nobody_is_left_waiting_while_a_worker_is_killed(tmp_path: Path) -> None:
    with serving("--workers", "4", *configuration(tmp_path)) as broker:
        slowest_connect(broker, 50)
        os.kill(workers(broker)[2], signal.SIGKILL)
        assert slowest_connect(broker, 400) < LATEST_CONNECT_SECONDS
        broker.logged("child accepts", 5, child=A_WORKER)
        assert broker.stop() == 0


def test_a_worker_that_is_killed_loses_its_own_clients_only_and_is_replaced(tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path)) as broker:
        killed, spared = workers(broker)[0], workers(broker)[1]
        lost, kept = client_of(broker, killed), client_of(broker, spared)
        os.kill(killed, signal.SIGKILL)
        with suppress(ConnectionResetError):
            assert read_end(lost) == b""
        broker.logged("child accepts", 4, child=A_WORKER)
        (died,) = broker.logged("child died")
        assert (died["child"], died["child_pid"], died["how"]) == ("worker 0", killed, "was ended by SIGKILL")
        assert workers(broker)[0] != killed
        kept.sendall(frame(TEXT, b"still here"))
        assert read_frame(kept) == (TEXT, b"still here")
        client_of(broker, workers(broker)[0]).close()
        kept.close()
        lost.close()
        assert broker.stop() == 0


@pytest.mark.parametrize("which", ["worker", "engine"])
def test_a_child_that_hangs_is_replaced(which: str, tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path, "stuck_seconds = 0.5")) as broker:
        (engine,) = set(children(broker)) - set(workers(broker).values())
        os.kill(workers(broker)[1] if which == "worker" else engine, signal.SIGSTOP)
        child = "worker 1" if which == "worker" else "engine"
        broker.logged("child is stuck and is killed", child=child)
        broker.logged("child died", child=child, how="was ended by SIGKILL")
        broker.logged("child accepts", 2, child=child)
        assert len(broker.logged("child is stuck and is killed")) == 1
        assert broker.stop() == 0


def test_after_a_pause_of_the_whole_broker_nobody_is_killed(tmp_path: Path) -> None:
    with notifications() as (receiver, told):
        flags = configuration(tmp_path, "stuck_seconds = 0.5")
        with serving("--workers", "2", *flags, extra={**told, "WATCHDOG_USEC": "1000000"}) as broker:
            assert next_message(receiver).startswith("READY=1")
            everybody = [broker.process.pid, *children(broker)]
            for pid in everybody:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(1.5)  # the pause itself
            messages_so_far(receiver)
            for pid in everybody:
                os.kill(pid, signal.SIGCONT)
            looks = 0
            while looks < 3:  # three looks at fresh heartbeats later ...
                message = next_message(receiver)
                # Workers that are back may be counted anew meanwhile.
                assert message == "WATCHDOG=1" or message.startswith("STATUS=2 of 2"), message
                looks += message == "WATCHDOG=1"
            assert not of_event(broker.errors, "child is stuck and is killed")
            assert sorted(everybody[1:]) == sorted(children(broker))
            assert broker.stop() == 0


def test_a_supervisor_that_is_killed_leaves_no_orphan_and_a_free_port(tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path)) as broker:
        left = [os.pidfd_open(pid) for pid in children(broker)]
        assert len(left) == 4
        broker.signal(signal.SIGKILL)
        assert all_gone(left, 2.0)
        for pidfd in left:
            os.close(pidfd)
        with serving("--workers", "2", listen=f"127.0.0.1:{broker.port}") as second:
            second.open().close()
            assert second.stop() == 0


def test_a_second_broker_on_the_port_does_not_start(tmp_path: Path) -> None:
    with serving("--workers", "2") as first:
        result = run("serve", "--dev", "--workers", "2", "--listen", f"127.0.0.1:{first.port}")
        assert result.status == CANNOT_RUN
        assert "is in use" in result.one_line
        assert first.stop() == 0


def test_a_second_signal_ends_it_without_waiting_for_the_silent(tmp_path: Path) -> None:
    flags = configuration(tmp_path, limits=["close_seconds = 300.0", "linger_seconds = 300.0"])
    with serving("--workers", "2", *flags) as broker:
        silent = broker.open()
        broker.signal(signal.SIGTERM)
        assert read_frame(silent)[0] == 8
        broker.signal(signal.SIGTERM)
        assert broker.status() == 0
        silent.close()


def test_every_worker_accepts_until_the_delay_before_the_end_is_over(tmp_path: Path) -> None:
    with notifications() as (receiver, told):
        flags = configuration(tmp_path, limits=["[drain]", "delay_seconds = 3000.0"])
        with serving("--workers", "2", *flags, extra=told) as broker:
            assert next_message(receiver).startswith("READY=1")
            broker.signal(signal.SIGTERM)
            assert next_message(receiver).startswith("STOPPING=1")
            clients = [client_of(broker, pid) for pid in workers(broker).values()]
            broker.signal(signal.SIGTERM)
            assert [say_goodbye(client) for client in clients] == [1001] * 2
            assert broker.status() == 0


def test_a_second_signal_ends_even_what_does_not_hear_it(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path, PATIENT)) as broker:
        os.kill(workers(broker)[0], signal.SIGSTOP)
        broker.signal(signal.SIGTERM)
        broker.logged("child ended", child="worker 1", how="ended with status 0")
        broker.signal(signal.SIGTERM)
        assert broker.status() == 0
        broker.logged("child ended", child="worker 0", how="was ended by SIGKILL")


def test_a_worker_that_hangs_while_all_are_told_to_end_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path, "stuck_seconds = 0.5")) as broker:
        os.kill(workers(broker)[0], signal.SIGSTOP)
        assert broker.stop() == 0


def test_a_worker_that_dies_again_and_again_ends_the_broker_with_the_reason(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path, "most_early_deaths = 3")) as broker:
        kept = client_of(broker, workers(broker)[0])
        for death in range(3):
            accepted = broker.logged("child accepts", death + 1, child="worker 1")
            os.kill(accepted[-1]["child_pid"], signal.SIGKILL)
        assert say_goodbye(kept) == 1001
        assert broker.status() == CANNOT_RUN
        last = broker.errors.splitlines()[-1]
        assert last.startswith("ws-broker: worker 1 died 3 times in a row soon after its start, the last time it was ")
        assert "SIGKILL" in last


def test_a_child_that_is_never_ready_ends_the_broker_with_the_reason(tmp_path: Path) -> None:
    flags = configuration(
        tmp_path, "start_seconds = 0.001", "most_early_deaths = 2", limits=["[drain]", "delay_seconds = 3000.0"]
    )
    result = run("serve", "--dev", "--workers", "2", "--listen", "127.0.0.1:0", *flags)
    assert (result.status, result.output) == (CANNOT_RUN, "")
    assert "engine" in result.errors.splitlines()[-1]
    assert of_event(result.errors, "child is not ready and is killed", child="engine", seconds=0.001)


def test_a_worker_that_is_full_leaves_its_clients_to_the_others_and_only_then_are_they_refused(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path, limits=["max_connections = 20"])) as broker:
        # Long enough for several heartbeats: each worker has to know that the other is there.
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            slowest_connect(broker, 1)
        clients = [broker.open() for _ in range(40)]
        held = [worker_of(broker, client) for client in clients]
        assert sorted(held.count(pid) for pid in set(held)) == [20, 20]
        with closing(broker.connect()) as refused:
            assert read_end(refused).startswith(b"HTTP/1.1 503 ")
        for client in clients:
            client.close()
        assert broker.stop() == 0


def test_all_workers_together_hold_no_more_connections_than_the_broker_may(tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path, limits=["max_connections_total = 12"])) as broker:
        clients = [broker.open() for _ in range(12)]
        assert len({worker_of(broker, client) for client in clients}) > 1
        for _ in range(3):
            with closing(broker.connect()) as refused:
                refused.sendall(request(offer="news"))
                assert read_end(refused).startswith(b"HTTP/1.1 503 ")
        say_goodbye_first(clients.pop())
        clients.append(broker.open())
        for client in clients:
            client.close()
        assert broker.stop() == 0


def say_goodbye_first(client: socket.socket) -> None:
    """Leaves, and waits until the broker has noticed: it answers the Close, then ends the connection."""
    client.sendall(close(1000))
    while client.recv(4096):
        pass
    client.close()


def reload_connects(broker: Served, event: str, count: int, **fields: str) -> int:
    """Connects until the event has been logged so often; every handshake must succeed. Returns how many there were."""
    connects = 0
    while len(of_event(broker.errors, event, **fields)) < count:
        broker.open().close()
        connects += 1
    return connects


def test_a_reload_under_connects_refuses_and_resets_nobody(tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path)) as broker:
        before = workers(broker)
        clients = [client_of(broker, pid) for pid in before.values()]
        broker.signal(signal.SIGHUP)
        connects = reload_connects(broker, "reloaded", 1)
        for client in clients:
            assert say_goodbye(client) == 1001
        connects += reload_connects(broker, "child ended", 3, how="ended with status 0")
        assert connects > 20
        assert not set(before.values()) & set(workers(broker).values())
        assert sorted(workers(broker).values()) == sorted(set(children(broker)) & set(workers(broker).values()))
        assert len(children(broker)) == 4
        assert broker.stop() == 0


def test_reloads_follow_each_other(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        held = len(os.listdir(f"/proc/{broker.process.pid}/fd"))
        for times in (1, 2, 3):
            broker.signal(signal.SIGHUP)
            broker.logged("reloaded", times)
            broker.logged("child ended", 2 * times, how="ended with status 0")
        assert len(os.listdir(f"/proc/{broker.process.pid}/fd")) == held
        slowest_connect(broker, 10)
        assert broker.stop() == 0


def test_a_wrong_configuration_is_not_taken_and_everything_wrong_is_told(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        before = children(broker)
        configuration(tmp_path, "stuck_secs = 1", limits=["max_headers = 1"])
        broker.signal(signal.SIGHUP)
        unknown = r"supervisor\.stuck_secs: unknown key; did you mean supervisor\.stuck_seconds.*"
        broker.logged("reload refused", problem=re.compile(unknown))
        broker.logged("reload refused", problem=re.compile(r"limits\.max_headers: .*"))
        assert children(broker) == before
        broker.open().close()
        assert broker.stop() == 0


def test_new_workers_that_do_not_come_up_leave_the_old_ones_serving(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        before = children(broker)
        configuration(tmp_path, "start_seconds = 0.001", "most_early_deaths = 1")
        broker.signal(signal.SIGHUP)
        broker.logged("reload refused", problem=re.compile(r"worker \d died 1 times.*"))
        configuration(tmp_path)
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded")
        broker.logged("child ended", 2, how="ended with status 0")
        assert set(before) & set(children(broker)) == {before[0]}  # the engine
        broker.open().close()
        assert broker.stop() == 0


def test_settings_that_wait_for_a_restart_are_named(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        configuration(tmp_path, limits=["listen_backlog = 5"])
        broker.signal(signal.SIGHUP)
        broker.logged("setting waits for a restart", setting="limits.listen_backlog", now=4096, wanted=5)
        broker.logged("reloaded")
        assert broker.stop() == 0
