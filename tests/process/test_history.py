"""History over the end of a process: a deploy is no loss, a crash says that it was one."""

import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.client_frames import TEXT, frame
from tests.integration.harness import JSON
from tests.log_lines import of_event
from tests.process.command import Served, read_frame, run, serving


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    file = tmp_path / "broker.toml"
    file.write_text(f'[server]\nstate_directory = "{tmp_path}"\n')
    return ["--history", "1000", "--config", str(file)]


def event(client: socket.socket) -> dict[str, Any]:
    opcode, payload = read_frame(client)
    assert opcode == TEXT, payload
    found = json.loads(payload)
    assert isinstance(found, dict)
    return found


def come_back(broker: Served, position: str) -> tuple[bool, socket.socket]:
    client = broker.open(f"{JSON}, news|since.{position}")
    return event(client)["channels"][0]["recovered"], client


def publish(client: socket.socket, numbers: range) -> list[str]:
    """Publishes and returns the positions."""
    commands = [json.dumps({"type": "publish", "channel": "news", "data": number, "id": number}) for number in numbers]
    client.sendall(b"".join(frame(TEXT, command.encode()) for command in commands))
    return [event(client)["position"] for _ in numbers]


def test_who_comes_back_after_a_restart_has_missed_nothing(flags: list[str], tmp_path: Path) -> None:
    with serving(*flags) as broker:
        client = broker.open(JSON)
        event(client)
        position = publish(client, range(100))[49]
        client.close()
        assert broker.stop() == 0
    with serving(*flags) as broker:
        recovered, client = come_back(broker, position)
        with closing(client):
            assert recovered is True
            assert [event(client)["data"] for _ in range(50)] == list(range(50, 100))
            # The epoch is the same, and no offset comes twice.
            other = broker.open(JSON)
            event(other)
            (after,) = publish(other, range(100, 101))
            assert after.split(".")[0] == position.split(".")[0]
            assert int(after.split(".")[1], 36) == 101
            assert event(client)["data"] == 100
            other.close()
        assert broker.stop() == 0
        assert broker.complaints == []


def test_who_comes_back_after_a_crash_is_told_that_something_is_missing(flags: list[str]) -> None:
    with serving(*flags) as broker:
        client = broker.open(JSON)
        event(client)
        publish(client, range(10))
        client.close()
        assert broker.stop() == 0
    # The snapshot is used up by the process that crashes: its own offsets must not come again.
    with serving(*flags) as broker:
        client = broker.open(JSON)
        event(client)
        position = publish(client, range(10))[0]
        broker.signal(signal.SIGKILL)
        broker.status()
        client.close()
    with serving(*flags) as broker:
        recovered, client = come_back(broker, position)
        client.close()
        assert recovered is False
        assert broker.stop() == 0
        assert broker.complaints == []


def test_a_damaged_snapshot_costs_one_line_and_no_start(flags: list[str], tmp_path: Path) -> None:
    with serving(*flags) as broker:
        client = broker.open(JSON)
        event(client)
        position = publish(client, range(10))[0]
        client.close()
        assert broker.stop() == 0
    snapshot = tmp_path / "history.snapshot"
    damaged = bytearray(snapshot.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    snapshot.write_bytes(damaged)
    with serving(*flags) as broker:
        recovered, client = come_back(broker, position)
        client.close()
        assert recovered is False
        assert broker.stop() == 0
        (line,) = broker.complaints
        assert of_event(line, "history of the last process is not used", why="it is damaged")


def test_a_message_that_is_published_again_after_a_restart_is_published_once(flags: list[str]) -> None:
    command = frame(TEXT, b'{"type":"publish","channel":"news","data":1,"message_id":"order-7","id":1}')
    positions = []
    for _ in range(2):
        with serving(*flags) as broker:
            client = broker.open(JSON)
            event(client)
            client.sendall(command)
            positions.append(event(client)["position"])
            client.close()
            assert broker.stop() == 0
    assert positions[0] == positions[1]


def test_without_a_state_directory_a_restart_is_a_new_epoch() -> None:
    with serving("--history", "10") as broker:
        client = broker.open(JSON)
        event(client)
        (position,) = publish(client, range(1))
        client.close()
        assert broker.stop() == 0
    with serving("--history", "10") as broker:
        recovered, client = come_back(broker, position)
        client.close()
        assert recovered is False


def test_a_state_directory_that_cannot_be_written_is_told_before_anything_is_served(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(f'[server]\nstate_directory = "{tmp_path / "nowhere"}"\n')
    result = run("serve", "--dev", "--listen", "127.0.0.1:0", "--config", str(file))
    assert result.status == 2
    assert "state_directory" in result.one_line


def test_a_disk_that_refuses_costs_the_history_and_not_the_end(flags: list[str], tmp_path: Path) -> None:
    with serving(*flags) as broker:
        client = broker.open(JSON)
        event(client)
        publish(client, range(10))
        (tmp_path / "history.snapshot.draft").mkdir()
        client.close()
        assert broker.stop() == 0
        (line,) = broker.complaints
        assert of_event(line, "history is lost with this process")
    assert os.listdir(tmp_path / "history.snapshot.draft") == []
