"""SIGHUP as an operator uses it: what takes effect, what is named, and that nobody loses a connection for nothing.

New workers in the place of old ones are in test_workers.py.
"""

import re
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.client_frames import TEXT, frame
from tests.integration.harness import request
from tests.process.command import Served, read_frame, read_head, serving
from tests.process.supervised import children
from tests.process.systemd import next_message, notifications


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "broker.toml"
    path.write_text("")
    return path


def answer(broker: Served, origin: str) -> bytes:
    with closing(broker.connect()) as client:
        client.sendall(request(offer="news", origin=origin))
        return read_head(client).split(b" ")[1]


def refused(broker: Served, problem: str) -> None:
    broker.logged("reload refused", problem=re.compile(problem))


def still_heard(client: socket.socket) -> None:
    client.sendall(frame(TEXT, b"still here"))
    assert read_frame(client) == (TEXT, b"still here")


def test_one_process_takes_new_origins_without_ending_a_connection(file: Path) -> None:
    with serving("--config", str(file)) as broker:
        client = broker.open()
        assert answer(broker, "https://new.example") == b"403"
        file.write_text('[server]\norigins = ["https://new.example"]\n')
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded", changed=["server.origins"])
        assert answer(broker, "https://new.example") == b"101"
        file.write_text("")
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded", 2, changed=["server.origins"])
        assert answer(broker, "https://new.example") == b"403"
        still_heard(client)
        client.close()
        assert broker.stop() == 0


def test_one_process_takes_how_it_ends_anew(file: Path) -> None:
    with serving("--config", str(file)) as broker:
        file.write_text("[drain]\nwindow_seconds = 0.2\n")
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded", changed=["drain.window_seconds"])
        client = broker.open()
        broker.signal(signal.SIGTERM)
        opcode, payload = read_frame(client)
        assert (opcode, int.from_bytes(payload[:2])) == (8, 1012)  # 1001 is what everybody gets without a window
        client.close()
        assert broker.status() == 0


def test_one_process_names_what_it_cannot_change_with_both_values_every_time(file: Path) -> None:
    with serving("--config", str(file)) as broker:
        file.write_text('[server]\nworkers = 3\n[limits]\nmax_headers = 8\n[channels.news]\nqueue = "latest"\n')
        for times in (1, 2):
            broker.signal(signal.SIGHUP)
            for setting, now, wanted in (
                ("server.workers", 1, 3),
                ("limits.max_headers", 100, 8),
                ('channels."news".queue', "as another pattern says", "latest"),
            ):
                broker.logged("setting waits for a restart", times, setting=setting, now=now, wanted=wanted)
            broker.logged("reloaded", times)
        with closing(broker.connect()) as client:
            client.sendall(request("/ws", *(f"X-{number}: x" for number in range(20)), offer="news"))
            assert b" 101 " in read_head(client)
        assert broker.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_broken_file_changes_nothing_and_everything_wrong_with_it_is_told(file: Path, workers: str) -> None:
    with serving("--config", str(file), "--workers", workers) as broker:
        before = children(broker)
        file.write_text('[server]\norigins = ["https://new.example", "nonsense"]\n[limits]\nmax_haeders = 1\n')
        broker.signal(signal.SIGHUP)
        refused(broker, r"limits\.max_haeders: unknown key; did you mean limits\.max_headers\? \(in .*toml\)")
        refused(broker, r"server\.origins\[1\]: 'nonsense' is not an origin.*toml\)")
        file.unlink()
        broker.signal(signal.SIGHUP)
        refused(broker, r".*broker\.toml: No such file or directory")
        assert answer(broker, "https://new.example") == b"403"
        assert children(broker) == before
        assert broker.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_new_and_what_is_kept_may_not_contradict_each_other(file: Path, workers: str) -> None:
    """The file is right by itself, but its channel would push all others out of the history that the engine has."""
    with serving("--config", str(file), "--workers", workers) as broker:
        before = children(broker)
        limits = "[limits]\nhistory_bytes = 2_000_000_000\n"
        file.write_text(f"{limits}[channels.a]\nhistory_count = 1\nhistory_bytes = 100_000_000\n")
        broker.signal(signal.SIGHUP)
        refused(broker, r'channels\."a"\.history_bytes: must not be above limits\.history_bytes \(67108864\).*')
        refused(broker, r"limits\.history_bytes: is 67108864 until a restart, not 2000000000.*")
        assert children(broker) == before
        broker.open().close()
        assert broker.stop() == 0


def test_a_reload_opens_no_dev_broker_to_the_network(file: Path) -> None:
    """The sockets that are open count, not what the file says of them by now."""
    file.write_text('[server]\nlisten = "0.0.0.0:0"\ndev_on_any_address = true\n')
    with serving("--config", str(file), listen="0.0.0.0:0") as broker:
        file.write_text('[server]\nlisten = "0.0.0.0:0"\norigins = ["https://new.example"]\n')
        broker.signal(signal.SIGHUP)
        refused(broker, r"server\.listen: with server\.dev everything is open.*")
        assert answer(broker, "https://new.example") == b"403"
        assert broker.stop() == 0


def test_settings_in_the_environment_still_win_after_a_reload(file: Path) -> None:
    with serving("--config", str(file), extra={"WSBROKER_SERVER_ORIGINS": "https://one.example"}) as broker:
        file.write_text('[server]\norigins = ["https://two.example"]\nrefusal = "http"\n')
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded", changed=["server.refusal"])
        assert answer(broker, "https://one.example") == b"101"
        assert answer(broker, "https://two.example") == b"403"
        assert broker.stop() == 0


def test_a_reload_of_one_process_is_told_to_systemd_whether_it_succeeds_or_not(file: Path) -> None:
    with notifications() as (receiver, told), serving("--config", str(file), extra=told) as broker:
        assert next_message(receiver) == "READY=1\nSTATUS=1 worker accepts"
        for text in ("", "nonsense = 1\n"):
            file.write_text(text)
            broker.signal(signal.SIGHUP)
            reloading, when = next_message(receiver).split("\n")
            assert (reloading, when.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
            assert next_message(receiver) == "READY=1\nSTATUS=1 worker accepts"
        assert broker.stop() == 0


def test_reloads_that_come_together_leave_one_process_serving(file: Path) -> None:
    with serving("--config", str(file)) as broker:
        for _ in range(50):
            broker.signal(signal.SIGHUP)
        broker.logged("reloaded", changed=[])
        broker.open().close()
        assert broker.stop() == 0
