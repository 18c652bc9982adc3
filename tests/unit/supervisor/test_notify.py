"""What systemd hears and passes: real datagrams, real sockets, an environment of the test."""

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.supervisor.notify import Notifier, passed_sockets

ROOT = Path(__file__).parents[3]


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        yield receiver


@pytest.fixture
def notifier(receiver: socket.socket, tmp_path: Path) -> Iterator[Notifier]:
    receiver.bind(str(tmp_path / "notify"))
    notifier = Notifier(str(tmp_path / "notify"), watchdog_seconds=2.0)
    yield notifier
    notifier.close()


def heard(receiver: socket.socket) -> list[str]:
    return receiver.recv(4096).decode().split("\n")


def test_a_path_is_spoken_to(receiver: socket.socket, notifier: Notifier) -> None:
    notifier.ready("all is well")
    assert heard(receiver) == ["READY=1", "STATUS=all is well"]


def test_an_abstract_name_is_spoken_to(receiver: socket.socket) -> None:
    receiver.bind(b"\0ws-broker-test-notify-%d" % os.getpid())
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": f"@ws-broker-test-notify-{os.getpid()}"})
    notifier.status("here")
    assert heard(receiver) == ["STATUS=here"]
    notifier.close()


def test_each_word_is_the_one_that_systemd_knows(receiver: socket.socket, notifier: Notifier) -> None:
    notifier.reloading()
    notifier.stopping("closing")
    notifier.extend(1.5)
    reloading, moment = heard(receiver)
    assert reloading == "RELOADING=1"
    assert moment.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert heard(receiver) == ["STOPPING=1", "STATUS=closing"]
    assert heard(receiver) == ["EXTEND_TIMEOUT_USEC=1500000"]


def test_the_watchdog_is_fed_at_half_of_its_time_and_not_before_readiness(
    receiver: socket.socket, notifier: Notifier
) -> None:
    notifier.watchdog_if_due(1.0, 0.1)
    notifier.ready("")
    assert heard(receiver)[0] == "READY=1"
    fed = []
    for tenth in range(10, 60):
        notifier.watchdog_if_due(tenth / 10, 0.1)
        notifier.status("looked")
        if heard(receiver) == ["WATCHDOG=1"]:
            fed.append(tenth)
            assert heard(receiver) == ["STATUS=looked"]
    # The next look after the one that is only just too early would be too late.
    assert fed[0] == 10
    assert all(8 <= later - earlier <= 10 for earlier, later in itertools.pairwise(fed))


def test_a_receiver_that_does_not_read_holds_up_nothing_that_is_said_again(notifier: Notifier) -> None:
    begun = time.monotonic()
    for _ in range(1000):
        notifier.status("nobody reads")
    assert time.monotonic() - begun < 1.0


def test_without_systemd_nothing_is_said_and_nothing_fails() -> None:
    notifier = Notifier.from_environment({})
    assert not notifier.active
    notifier.ready("")
    notifier.reloading()
    notifier.watchdog_if_due(1.0, 0.1)
    notifier.extend(1)
    notifier.close()


def test_a_receiver_that_is_gone_is_no_reason_to_stop(notifier: Notifier, receiver: socket.socket) -> None:
    receiver.close()
    notifier.ready("nobody hears it")
    assert notifier.active


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_counts_if_it_is_for_this_process(variables: dict[str, str], seconds: float | None) -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "PATH": "/bin", **variables}
    notifier = Notifier.from_environment(environment)
    assert notifier.watchdog_seconds == seconds
    assert environment == {"PATH": "/bin"}  # children are not told
    notifier.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_for_another_process_are_left_alone(environment: dict[str, str]) -> None:
    assert passed_sockets(environment) == []
    assert environment == {}


# In a process of its own, as the numbers from 3 on are taken here.
_TAKE = """
import os, sys
from broker.supervisor.notify import PassedSocketError, passed_sockets
fd = int(sys.argv[1])
if fd != 3:
    os.dup2(fd, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", )
if sys.argv[2]:
    os.environ["LISTEN_FDNAMES"] = sys.argv[2]
try:
    ((name, one),) = passed_sockets()
except PassedSocketError as error:
    print(error)
else:
    print(one.getsockname()[1], one.getblocking(), os.get_inheritable(3), "LISTEN_FDS" in os.environ)
    one.detach()
"""


def taken(fd: int, name: str = "") -> str:
    return subprocess.run(
        [sys.executable, "-c", _TAKE, str(fd), name],
        pass_fds=[fd],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_a_listening_socket_is_taken_as_the_reactor_needs_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert taken(listener.fileno()) == f"{listener.getsockname()[1]} False False False"


def test_what_is_no_listening_tcp_socket_is_named(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert taken(file.fileno(), "web") == "LISTEN_FDS: file descriptor 3 (web) is no socket: " + os.strerror(88)
    with socket.socket() as silent:
        assert taken(silent.fileno()) == "LISTEN_FDS: file descriptor 3 (unknown) is no listening TCP socket"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "unix"))
        unix.listen()
        assert taken(unix.fileno(), "a") == "LISTEN_FDS: file descriptor 3 (a) is no listening TCP socket"
