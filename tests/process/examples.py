"""The files of config/examples/ as somebody uses them: the lines of their comments, in a folder of one's own.

Owns the folder and the broker. Of an example only the addresses to listen on are changed.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.process.command import COMMAND, PATIENCE_SECONDS, ROOT, Served, environment, serving

EXAMPLES = ROOT / "config" / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
SITE = "https://www.example.com"
SHOWN_API = "127.0.0.1:8001"
ADDRESSES = {"WSBROKER_API_LISTEN": "127.0.0.1:0"}
SERVE = "ws-broker serve --config broker.toml"


def commands(name: str) -> list[str]:
    """The lines of its comments that are for a shell."""
    return re.findall(r"^#   ((?:cp|ws-broker|curl) .*)$", (EXAMPLES / f"{name}.toml").read_text(), re.MULTILINE)


def shell(line: str, folder: Path) -> str:
    """Runs a line as somebody types it in this folder; returns what it printed."""
    line = re.sub(r"^ws-broker", shlex.join(COMMAND), line).replace("config/examples", str(EXAMPLES))
    done = subprocess.run(
        ["/bin/bash", "-ec", line],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


class Example:
    """A broker that serves an example, and the lines of its comments."""

    def __init__(self, name: str, folder: Path, broker: Served) -> None:
        self.name = name
        self.folder = folder
        self.broker = broker
        self.api = broker.api_url.removeprefix("http://")

    def token(self, sub: str, line: str | None = None) -> str:
        """Made by the line for Ann that the comment shows, for another user if asked."""
        (shown,) = [one for one in commands(self.name) if one.startswith("ws-broker token")]
        line = (line or shown).replace("--sub ann", f"--sub {sub}")
        assert f"--sub {sub} " in line
        return shell(line, self.folder).strip()

    def curl(self, containing: str, *instead: str) -> Any:
        """The one curl of the comments with this text; what the API answered. `instead`: what stands in its place, then
        further pairs of what is shown and what is written for it.
        """
        (line,) = [one for one in commands(self.name) if one.startswith("curl") and containing in one]
        assert SHOWN_API in line
        old = [containing, *instead[1::2]]
        for shown, written in zip(old, instead[0::2], strict=False):
            assert shown in line
            line = line.replace(shown, written)
        return json.loads(shell(line.replace("curl ", "curl -sS ", 1).replace(SHOWN_API, self.api), self.folder))

    def connect(self, *offer: str, token: str | None = None, origin: str | None = SITE) -> ClientConnection:
        """A program that says what a page would say."""
        credential = [] if token is None else [f"bearer.{token}"]
        return connect(
            self.broker.url,
            subprotocols=[Subprotocol(one) for one in (*offer, *credential)],
            origin=None if origin is None else Origin(origin),
        )


def prepared(name: str, folder: Path) -> Path:
    """Carries out the comment up to `serve`; the configuration that is there then."""
    folder.mkdir()
    lines = commands(name)
    for line in lines[: lines.index(SERVE)]:
        shell(line, folder)
    return folder / "broker.toml"


@contextmanager
def example(name: str, folder: Path, flags: Sequence[str] = (), **environment: str) -> Iterator[Example]:
    file = prepared(name, folder)
    extra = ADDRESSES | environment
    with serving("--config", str(file), *flags, dev=False, extra=extra) as broker:
        yield Example(name, folder, broker)
        assert broker.stop() == 0, broker.errors


def event(client: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of this type; others are passed by."""
    while True:
        found: dict[str, Any] = json.loads(client.recv(PATIENCE_SECONDS))
        if found["type"] == kind:
            return found


def ended(client: ClientConnection) -> tuple[int, str]:
    """Code and reason of the broker's Close, after whatever came before it."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(PATIENCE_SECONDS)
    assert client.close_code is not None
    return client.close_code, client.close_reason or ""
