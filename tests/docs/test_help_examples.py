"""Every example of every `--help` does what it is shown for: run by a shell as it stands, against one broker.

Only where a broker listens is put in its place. Whoever listens hears messages as long as the example runs.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from broker.cli.main import main
from tests.process.command import COMMAND, PATIENCE_SECONDS, ROOT, Served, environment, serving
from tests.process.guarded import Site, guarded, new_site

INTERRUPTED = 130
OPEN = '[channels.">"]\nsubscribe = "anyone"\npublish = "anyone"\nhistory_count = 10\n'


def examples() -> list[str]:
    """Of each command, and of the whole; each once."""
    found: dict[str, None] = {}
    for command in (main, *main.commands.values()):
        for line in (command.help or "").splitlines():
            if re.match(r" +.*\bws-broker [a-z]", line) and "`" not in line:
                found[line.strip()] = None
    return list(found)


class World:
    """A broker, what its clients need in the environment, and files as the examples name them."""

    def __init__(self, broker: Served, site: Site, key: str) -> None:
        self.broker = broker
        self.site = site
        self.key = key
        self.environment = environment(
            PYTHONPATH=str(ROOT), WSBROKER_URL=broker.url, WSBROKER_API_URL=broker.api_url, WSBROKER_API_KEY=key
        )

    def publish(self, channel: str) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "text/plain"}
        url = f"{self.broker.api_url}/v1/channels/{channel}/messages"
        with urllib.request.urlopen(urllib.request.Request(url, b"hello", headers), timeout=PATIENCE_SECONDS):
            pass

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Somebody publishes in all channels that examples listen to, until the example has ended."""
        over = threading.Event()

        def speak() -> None:
            while not over.wait(0.05):
                for channel in ("news", "room.42"):
                    self.publish(channel)

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    site = new_site(tmp_path_factory.mktemp("site"), OPEN)
    key = site.api_key("all", "--scope", "publish", "--scope", "read", "--scope", "admin").read_text().strip()
    with guarded(site) as broker:
        yield World(broker, site, key)


@pytest.fixture
def folder(tmp_path: Path, world: World) -> Path:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    shutil.copy(world.site.config, tmp_path / "broker.toml")
    return tmp_path


@pytest.mark.parametrize("example", examples())
def test_an_example_of_the_help_does_what_it_is_shown_for(example: str, world: World, folder: Path) -> None:
    if " serve " in example:
        serves(example, folder)
        return
    if "--key-file keys/" in example:
        shutil.copytree(world.site.folder / "keys", folder / "keys")
    line = example.replace("ws-broker ", " ".join(COMMAND) + " ")
    line = line.replace("/etc/" + " ".join(COMMAND), "/etc/ws-broker").replace("/etc/ws-broker/", "")
    if re.search(r"\b(sessions|disconnect|channels|top)\b", example):
        headers = {"Authorization": f"Bearer {world.site.token()}"}
        with connect(world.broker.url, additional_headers=headers, subprotocols=[Subprotocol("room.42")]):
            world.publish("room.42")  # something for `top`
            runs(line, world, folder)
    elif "subscribe " in example and "token" not in example:
        with world.speaking():
            runs(line, world, folder) if "--count" in example else goes_on(line, world, folder)
    else:
        runs(line, world, folder)


def runs(line: str, world: World, folder: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-ec", line],
        cwd=folder,
        env=world.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done
    assert "rror" not in done.stderr


def goes_on(line: str, world: World, folder: Path) -> None:
    """Until Ctrl-C, which a terminal sends to all of a pipe."""
    with subprocess.Popen(
        ["/bin/bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            if "publish copy" in line:
                with connect(f"{world.broker.url}?channels=copy", subprotocols=[Subprotocol("copy")]) as hears:
                    assert hears.recv(PATIENCE_SECONDS) == "hello"
            else:
                assert process.stdout.readline() == "hello\n"
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE_SECONDS) in (INTERRUPTED, -signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def serves(example: str, folder: Path) -> None:
    """On ports that are free here."""
    words = example.split()
    assert words[:2] == ["ws-broker", "serve"]
    arguments = [word for word in words[2:] if not re.fullmatch(r"--(api-)?listen|127\.0\.0\.1:\d+|--dev", word)]
    arguments = [str(folder / word) if word == "broker.toml" else word for word in arguments]
    with serving(*arguments, dev="--dev" in words) as broker:
        broker.open("room.42").close()
        assert broker.stop() == 0


def test_each_command_has_examples() -> None:
    shown = "\n".join(examples())
    for name in main.commands:
        assert f"ws-broker {name}" in shown
