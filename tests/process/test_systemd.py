"""Under systemd, played by the test: notifications in their order, the watchdog, sockets that are passed."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.process.command import COMMAND, run, say_goodbye, serving
from tests.process.supervised import configuration, worker_of, workers
from tests.process.systemd import handed_over, messages_so_far, next_message, notifications, said

CANNOT_RUN = 1


def test_ready_is_said_when_every_worker_accepts_and_the_rest_in_order(tmp_path: Path) -> None:
    with notifications() as (receiver, told), serving("--workers", "2", *configuration(tmp_path), extra=told) as broker:
        assert said(receiver, "READY=1") == "READY=1\nSTATUS=2 of 2 workers accept; connections of each: 0 0"
        broker.signal(signal.SIGHUP)
        reloading, when = said(receiver, "RELOADING=1").split("\n")
        assert reloading == "RELOADING=1"
        assert int(when.removeprefix("MONOTONIC_USEC=")) > 0
        said(receiver, "READY=1\nSTATUS=2 of 2 workers accept")
        client = broker.open()
        broker.signal(signal.SIGTERM)
        assert said(receiver, "STOPPING=1") == "STOPPING=1\nSTATUS=closing connections"
        assert next_message(receiver).startswith("EXTEND_TIMEOUT_USEC=")
        assert say_goodbye(client) == 1001
        assert broker.status() == 0


def test_a_reload_that_fails_ends_in_ready_as_well(tmp_path: Path) -> None:
    with notifications() as (receiver, told), serving("--workers", "2", *configuration(tmp_path), extra=told) as broker:
        said(receiver, "READY=1")
        configuration(tmp_path, "nonsense = 1")
        broker.signal(signal.SIGHUP)
        said(receiver, "RELOADING=1\n")
        said(receiver, "READY=1\n")
        assert broker.stop() == 0


def test_the_status_tells_how_many_connections_each_worker_has(tmp_path: Path) -> None:
    with notifications() as (receiver, told), serving("--workers", "2", *configuration(tmp_path), extra=told) as broker:
        said(receiver, "READY=1")
        clients = [broker.open() for _ in range(6)]
        held = [worker_of(broker, client) for client in clients]
        counts = " ".join(str(held.count(workers(broker)[index])) for index in (0, 1))
        assert next_message(receiver) == f"STATUS=2 of 2 workers accept; connections of each: {counts}"
        for client in clients:
            client.close()
        assert broker.stop() == 0


def test_the_watchdog_is_fed_only_while_every_child_is_heard_of(tmp_path: Path) -> None:
    flags = configuration(tmp_path, "stuck_seconds = 1.0")
    with (
        notifications() as (receiver, told),
        serving("--workers", "2", *flags, extra={**told, "WATCHDOG_USEC": "600000"}) as broker,
    ):
        while next_message(receiver) != "WATCHDOG=1":
            pass
        os.kill(workers(broker)[0], signal.SIGSTOP)
        broker.logged("child is stuck and is killed")
        messages_so_far(receiver)
        broker.logged("child accepts", 4)
        while next_message(receiver) != "WATCHDOG=1":
            pass
        assert broker.stop() == 0


def test_a_watchdog_meant_for_another_process_is_not_fed(tmp_path: Path) -> None:
    told_wrong = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with notifications() as (receiver, told), serving(extra={**told, **told_wrong}) as broker:
        said(receiver, "READY=1")
        broker.open().close()
        broker.signal(signal.SIGTERM)
        said(receiver, "STOPPING=1")
        assert broker.status() == 0


def test_a_single_worker_tells_systemd_too() -> None:
    with (
        notifications() as (receiver, told),
        serving(extra={**told, "WATCHDOG_USEC": "200000"}) as broker,
    ):
        assert said(receiver, "READY=1") == "READY=1\nSTATUS=1 worker accepts"
        assert [next_message(receiver) for _ in range(3)] == ["WATCHDOG=1"] * 3
        broker.signal(signal.SIGTERM)
        while (message := next_message(receiver)) == "WATCHDOG=1":
            pass
        assert message == "STOPPING=1\nSTATUS=closing connections"
        assert broker.status() == 0


def test_without_anybody_to_tell_it_serves_all_the_same() -> None:
    with serving("--workers", "2", extra={"NOTIFY_SOCKET": "/nowhere/notify"}) as broker:
        broker.open().close()
        broker.logged("systemd could not be told", what="READY=1")
        assert broker.stop() == 0


def listening(host: str = "127.0.0.1") -> socket.socket:
    listener = socket.socket()
    listener.bind((host, 0))
    listener.listen(64)
    return listener


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("number_of_workers", [1, 2])
def test_sockets_that_are_passed_are_used_and_no_others(count: int, number_of_workers: int, tmp_path: Path) -> None:
    listeners = [listening() for _ in range(count)]
    flags = ["--workers", str(number_of_workers), *configuration(tmp_path)]
    prefix = handed_over(*listeners)
    with serving(*flags, prefix=prefix, pass_fds=[one.fileno() for one in listeners]) as broker:
        assert broker.port == listeners[0].getsockname()[1]
        for listener in listeners:
            broker.port = listener.getsockname()[1]
            clients = [broker.open() for _ in range(10)]
            for client in clients:
                client.close()
        clients = [broker.open() for _ in range(2)]
        broker.signal(signal.SIGTERM)
        assert {say_goodbye(client) for client in clients} == {1001}
        assert broker.status() == 0
    # They are ours, and work on: connections may wait in them over a restart.
    with socket.create_connection(listeners[0].getsockname(), 5):
        listeners[0].accept()[0].close()
    for listener in listeners:
        listener.close()


def test_one_passed_socket_is_served_by_every_worker(tmp_path: Path) -> None:
    with listening() as listener:
        flags = ["--workers", "2", *configuration(tmp_path)]
        with serving(*flags, prefix=handed_over(listener), pass_fds=[listener.fileno()]) as broker:
            seen: set[int] = set()
            clients = []
            while seen != set(workers(broker).values()):
                clients.append(broker.open())
                seen.add(worker_of(broker, clients[-1]))
                assert len(clients) < 500
            # Even if only one of them turns.
            os.kill(workers(broker)[0], signal.SIGSTOP)
            last = broker.open()
            assert worker_of(broker, last) == workers(broker)[1]
            os.kill(workers(broker)[0], signal.SIGCONT)
            for client in (*clients, last):
                client.close()
            assert broker.stop() == 0


def test_a_passed_socket_that_cannot_be_listened_on_is_named() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        command = [*handed_over(silent), *COMMAND]
        result = run("serve", "--dev", command=command, pass_fds=[silent.fileno()])
    assert (result.status, result.output) == (CANNOT_RUN, "")
    assert result.one_line == "LISTEN_FDS: file descriptor 3 (web) is no listening TCP socket"


def test_dev_does_not_take_a_passed_socket_that_is_open_to_the_network() -> None:
    with listening("0.0.0.0") as everywhere:
        command = [*handed_over(everywhere), *COMMAND]
        result = run("serve", "--dev", command=command, pass_fds=[everywhere.fileno()])
    assert (result.status, result.output) == (CANNOT_RUN, "")
    assert "only a loopback address is taken" in result.one_line


def test_a_child_is_told_nothing_that_is_meant_for_the_supervisor(tmp_path: Path) -> None:
    with (
        notifications() as (receiver, told),
        serving("--workers", "2", *configuration(tmp_path), extra={**told, "WATCHDOG_USEC": "1000000"}) as broker,
    ):
        said(receiver, "READY=1")
        for pid in workers(broker).values():
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in variables
            assert b"WATCHDOG" not in variables
        assert broker.stop() == 0
