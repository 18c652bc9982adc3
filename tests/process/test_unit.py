"""deploy/systemd: what systemd itself says of the units, and what the service's own command line does.

Played by the test: the sockets, the notifications, the system call filter. Not played: the mount namespace of the
sandbox, DynamicUser= and what systemd does with its clock; docs/systemd.md says what was tried by hand.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from broker.config.schema import Config
from tests.process.command import Served, environment, say_goodbye
from tests.process.supervised import children
from tests.process.systemd import notifications, said
from tests.process.unit_file import FOLDER, PROGRAM, STATE, Unit, command_line, started

SERVICE = Unit("ws-broker.service")
SOCKETS = sorted(path.name for path in FOLDER.glob("*.socket"))
DEFAULTS = Config()
KEY_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
FILE = f"""
[server]
workers = 2
[drain]
window_seconds = 0.2
[channels.news]
subscribe = "anyone"
history_count = 10
[api.keys.shop]
sha256 = "{KEY_DIGEST}"
scopes = ["publish"]
channels = [">"]
"""


def systemd_analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env=environment(SYSTEMD_LOG_LEVEL="warning"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program
    for unit in FOLDER.glob("ws-broker*"):
        # It wants the program to be there.
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, program))
    result = systemd_analyze("verify", *sorted(tmp_path.iterdir()))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_sandbox_is_as_tight_as_the_network_lets_it() -> None:
    result = systemd_analyze("security", "--offline=true", "--threshold=20", FOLDER / "ws-broker.service")
    assert result.returncode == 0, result.stdout


def test_systemd_waits_longer_than_the_broker_needs_for_each_thing() -> None:
    drain, limits, supervisor = DEFAULTS.drain, DEFAULTS.limits, DEFAULTS.supervisor
    end = drain.delay_seconds + drain.window_seconds + limits.close_seconds + limits.linger_seconds
    assert SERVICE.seconds("TimeoutStopSec") >= end + 10
    assert SERVICE.seconds("TimeoutStartSec") >= 2 * supervisor.start_seconds
    # The broker looks after its children itself; the watchdog is for a broker that cannot.
    assert SERVICE.seconds("WatchdogSec") >= 4 * supervisor.stuck_seconds


def test_the_sockets_are_where_the_settings_are_and_named_as_the_broker_knows_them() -> None:
    sockets = {Unit(name).value("FileDescriptorName"): Unit(name) for name in SOCKETS}
    assert {name: unit.value("ListenStream") for name, unit in sockets.items()} == {
        "clients": DEFAULTS.server.listen,
        "api": DEFAULTS.api.listen,
        "admin": DEFAULTS.admin.listen,
    }
    assert int(sockets["clients"].value("Backlog")) == DEFAULTS.limits.listen_backlog
    for name, unit in sockets.items():
        # Or whoever connects during a restart would be thrown away.
        assert unit.value("FlushPending") == "no"
        # A socket unit goes with the service of its name, the others have to say it.
        assert unit.values("Service") == ([] if name == "clients" else ["ws-broker.service"])


def test_the_state_is_kept_where_the_sandbox_lets_it_be() -> None:
    assert f"/var/lib/{SERVICE.value('StateDirectory')}" == STATE
    assert f"WSBROKER_SERVER_STATE_DIRECTORY={STATE}" in SERVICE.values("Environment")


@contextmanager
def service(folder: Path, *, prefix: tuple[str, ...] = ()) -> Iterator[tuple[Served, socket.socket, list[int]]]:
    """The service with all its sockets; who hears what it tells systemd; their ports: clients, api, admin."""
    (folder / "broker.toml").write_text(FILE)
    with ExitStack() as stack:
        listeners = {}
        for name in ("clients", "api", "admin"):
            listeners[name] = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        ports = [listener.getsockname()[1] for listener in listeners.values()]
        receiver, told = stack.enter_context(notifications())
        broker = stack.enter_context(started(folder, listeners, {**told, "WATCHDOG_USEC": "30000000"}, prefix))
        assert broker.port == ports[0]
        yield broker, receiver, ports
        if broker.process.poll() is None:
            assert broker.stop() == 0


def test_the_service_is_ready_serves_reloads_and_drains(tmp_path: Path) -> None:
    with service(tmp_path) as (broker, receiver, ports):
        said(receiver, "READY=1\nSTATUS=2 of 2 workers accept")
        client = broker.open()
        assert answers(ports[1], "/v1/nowhere") == 401
        assert answers(ports[2], "/readyz") == 200
        check, hang_up = SERVICE.values("ExecReload")
        assert hang_up == '/bin/sh -c "kill -HUP $MAINPID"'
        assert checked(check, tmp_path).returncode == 0
        subprocess.run(shlex.split(hang_up.replace("$MAINPID", str(broker.process.pid))), check=True)
        said(receiver, "RELOADING=1")
        # New workers have taken over; the old ones say goodbye.
        assert say_goodbye(client) == 1012
        said(receiver, "READY=1")
        client = broker.open()
        broker.signal(signal.SIGTERM)
        said(receiver, "STOPPING=1")
        assert say_goodbye(client) == 1012
        assert broker.status() == 0
    assert list((tmp_path / "state").iterdir()), "the history is not where the unit wants it"


def checked(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command_line(command, folder), env=environment(), capture_output=True, text=True, check=False)


def answers(port: int, path: str) -> int:
    """The status of a GET."""
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return int(client.makefile("rb").readline().split()[1])


def test_a_reload_of_a_wrong_configuration_fails_before_the_broker_hears_of_it(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text("[server]\nlissten = 1\n")
    check, _ = SERVICE.values("ExecReload")
    result = checked(check, tmp_path)
    assert result.returncode == 2
    assert "server.lissten" in result.stderr


def test_whoever_connects_while_the_service_restarts_waits_and_is_served(tmp_path: Path) -> None:
    (tmp_path / "broker.toml").write_text(FILE)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, notifications() as (_, told):
        told["WSBROKER_SERVER_WORKERS"] = "1"
        with started(tmp_path, {"clients": listener}, told) as broker:
            assert broker.stop() == 0
        with broker.connect() as early:
            early.sendall(b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with started(tmp_path, {"clients": listener}, told) as broker:
                assert early.recv(12) == b"HTTP/1.1 426"
                assert broker.stop() == 0


def system_calls(name: str, groups: dict[str, list[str]]) -> set[str]:
    """A group of system calls, with those in it."""
    if not name.startswith("@"):
        return {name}
    return {call for member in groups[name] for call in system_calls(member, groups)}


def sandbox() -> list[str]:
    """The filter that the unit asks for, by systemd's own lists."""
    groups: dict[str, list[str]] = {}
    for line in systemd_analyze("syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line.strip(), [])
        elif line.strip() and not line.lstrip().startswith("#"):
            group.append(line.strip())
    wanted, unwanted = SERVICE.values("SystemCallFilter")
    allowed = set[str]().union(*(system_calls(name, groups) for name in wanted.split()))
    allowed -= set[str]().union(*(system_calls(name, groups) for name in unwanted.removeprefix("~").split()))
    settings = {"allowed": sorted(allowed), "families": SERVICE.value("RestrictAddressFamilies").split()}
    return [sys.executable, "-m", "tests.process.sandbox", json.dumps(settings)]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("memory that is written and executed", "import mmap; mmap.mmap(-1, 4096, prot=7)"),
        ("another kind of socket", "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
        ("what only root may do", "import os; os.chroot('/')"),
    ],
)
def test_the_sandbox_of_these_tests_is_one(what: str, code: str) -> None:
    result = subprocess.run([*sandbox(), sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PermissionError" in result.stderr, what


def test_under_the_system_call_filter_it_serves_replaces_a_dead_worker_and_drains(tmp_path: Path) -> None:
    with service(tmp_path, prefix=tuple(sandbox())) as (broker, receiver, _):
        said(receiver, "READY=1")
        status = Path(f"/proc/{broker.process.pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        os.kill(children(broker)[-1], signal.SIGKILL)
        broker.logged("worker is linked", 3)
        client = broker.open()
        broker.signal(signal.SIGTERM)
        assert say_goodbye(client) == 1012
        assert broker.status() == 0
