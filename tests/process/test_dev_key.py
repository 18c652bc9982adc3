"""The key of one run of `serve --dev`: found by the commands, gone with its broker, made for nobody else."""

import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from broker.cli.devkey import DevKey, living
from tests.process import command
from tests.process.command import PATIENCE_SECONDS, run, serving
from tests.process.pretended_api import pretending


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file goes, for this process and for those that it starts."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(command.OWN_FOLDER, "name", str(tmp_path))
    return tmp_path / f"ws-broker-{os.getuid()}"


def test_the_commands_find_a_broker_with_dev_and_the_file_is_private(folder: Path) -> None:
    with serving() as broker:
        (file,) = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (found,) = living()
        assert found.url == f"ws://127.0.0.1:{broker.port}/ws"
        assert found.key not in repr(found)
        assert broker.stop() == 0
    assert list(folder.iterdir()) == []
    assert living() == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_file_of_a_killed_broker_does_no_harm_and_the_next_start_removes_it(folder: Path, workers: str) -> None:
    with serving("--workers", workers) as broker:
        broker.signal(signal.SIGKILL)
        broker.status()
    (stale,) = folder.iterdir()
    assert living() == []
    with serving() as broker:
        assert not stale.exists()
        assert len(living()) == 1
        assert broker.stop() == 0


def test_a_command_sends_the_key_to_that_broker_and_to_no_other(folder: Path) -> None:
    with pretending() as api, pretending() as other, DevKey().held(api.url, "ws://127.0.0.1:1/ws"):
        assert run("publish", "news", "hi", WSBROKER_API_KEY="").status == 0
        assert run("publish", "news", "hi", "--api-url", api.url.replace("127.0.0.1", "localhost")).status == 0
        refused = run("publish", "news", "hi", "--api-url", other.url)
    assert len(api.asked) == 2
    assert refused.status == 1
    assert "no API key" in refused.one_line
    assert other.asked == []


def test_several_brokers_have_to_be_told_apart(folder: Path) -> None:
    with pretending() as one, pretending() as two, DevKey().held(one.url, "ws://x"), DevKey().held(two.url, "ws://y"):
        result = run("publish", "news", "hi")
        assert result.status == 2
        assert one.url in result.one_line
        assert two.url in result.one_line
        assert run("publish", "news", "hi", "--api-url", two.url).status == 0
    assert (len(one.asked), len(two.asked)) == (0, 1)


def test_a_folder_that_others_can_enter_is_not_used(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.chmod(0o755)
    with DevKey().held("http://127.0.0.1:1", "ws://x") as written:
        assert not written
    assert living() == []


def test_a_link_in_the_place_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with DevKey().held("http://127.0.0.1:1", "ws://x") as written:
        assert not written
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"api_url": 1, "url": 2, "key": 3}'])
def test_a_file_with_something_else_in_it_is_passed_over(folder: Path, content: str) -> None:
    with DevKey().held("http://127.0.0.1:1", "ws://x"):
        (file,) = folder.iterdir()
        file.write_text(content)
        assert living() == []


def test_the_line_that_the_start_prints_for_a_shell_publishes_as_it_stands(folder: Path) -> None:
    with serving() as broker:
        (found,) = living()
        assert broker.api_url == found.api_url
        (curl,) = (line for line in broker.lines if "curl" in line)
        assert f"Bearer {found.key}'" in curl
        with connect(broker.url, subprotocols=[Subprotocol("news")]) as page:
            done = subprocess.run(curl, shell=True, capture_output=True, timeout=PATIENCE_SECONDS, check=True)
            assert json.loads(done.stdout) == {"channel": "news", "position": None, "subscriptions": 1}
            assert page.recv(PATIENCE_SECONDS) == "hello"
            assert run("publish", "news", "without it") == (0, "", "")
            assert page.recv(PATIENCE_SECONDS) == "without it"
        assert broker.stop() == 0


def test_a_key_of_that_name_in_the_configuration_is_not_replaced_in_silence(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(f'[api.keys.dev]\nsha256 = "{"0" * 64}"\n')
    result = run("serve", "--dev", "--config", str(file))
    assert result.status == 2
    assert result.one_line.startswith("api.keys.dev: ")


def neighbours() -> tuple[socket.socket, int]:
    """A port that is taken, and the one before it, which is free."""
    while True:
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        before = taken.getsockname()[1] - 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", before))
            except OSError:
                taken.close()
                continue
        return taken, before


def test_the_api_of_a_second_broker_takes_another_port_when_nobody_named_one(folder: Path) -> None:
    taken, before = neighbours()
    with taken, serving(listen=f"127.0.0.1:{before}", api_listen=None) as broker:
        broker.logged("API takes another port")
        (found,) = living()
        assert found.api_url != f"http://127.0.0.1:{before + 1}"
        assert run("publish", "news", "hello").status == 0
