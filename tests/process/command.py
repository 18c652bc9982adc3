"""The command as an operator runs it: a process of its own, its two outputs, its exit status. Nobody polls a port.

A broker is ready when it has named its page on standard output; a client here is a plain blocking socket.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.client_frames import close
from tests.integration.harness import request
from tests.log_lines import Line, complaints, of_event

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "broker"]
PATIENCE_SECONDS = 30.0


class Result(NamedTuple):
    """How a command that does not serve ended."""

    status: int
    output: str
    errors: str

    @property
    def one_line(self) -> str:
        """What it said on standard error, which has to be one line, beginning with whose it is."""
        (line,) = self.errors.splitlines()
        assert line.startswith("ws-broker: "), line
        return line.removeprefix("ws-broker: ")


# Brokers and commands of tests find each other there, and never those of whoever works on this machine.
OWN_FOLDER = tempfile.TemporaryDirectory(prefix="wsb-")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    return {
        **kept,
        "TMPDIR": OWN_FOLDER.name,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "100",
        # Brokers of tests run beside each other; one whose admin port is looked at says --admin-listen.
        "WSBROKER_ADMIN_LISTEN": "",
        **more,
    }


def run(
    *arguments: str,
    command: Sequence[str] = COMMAND,
    cwd: Path = ROOT,
    pass_fds: Sequence[int] = (),
    **more: str,
) -> Result:
    """Runs the command to its end."""
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=environment(**more),
        pass_fds=pass_fds,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


class Served:
    """A broker that serves. `lines` are what it has said on standard output so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors = ""
        self._said_more = threading.Condition()
        self._reader = threading.Thread(target=self._read_errors)
        self._reader.start()
        self.host, self.port = self._named_page()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said_more:
                self.errors += line
                self._said_more.notify_all()

    def logged(self, event: str, count: int = 1, **fields: object) -> list[Line]:
        """Waits until the log has so many lines of this event with these fields; returns all."""

        def found() -> list[Line]:
            return of_event(self.errors, event, **fields)

        with self._said_more:
            assert self._said_more.wait_for(lambda: len(found()) >= count, PATIENCE_SECONDS), (
                f"did not log {event!r} with {fields} {count} times:\n{self.errors}"
            )
            return found()

    @property
    def complaints(self) -> list[str]:
        """What of its log so far would alarm an operator."""
        return complaints(self.errors)

    def _named_page(self) -> tuple[str, int]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(r"(?:http|ws)://(\S+):(\d+)/", line):
                return found[1].strip("[]"), int(found[2])
        self._reader.join(PATIENCE_SECONDS)
        raise AssertionError(f"it named no page: {self.lines}\n{self.errors}")

    @property
    def api_url(self) -> str:
        """Where it says that its HTTP API is."""
        return self._named(r"(http://\S+)/v1/")

    @property
    def admin_url(self) -> str:
        """Where it says that its metrics are, without their path. It has to be told --admin-listen."""
        return self._named(r"(http://\S+)/metrics$")

    def _named(self, pattern: str) -> str:
        assert self.process.stdout is not None
        while not (found := re.search(pattern, "\n".join(self.lines), re.MULTILINE)):
            line = self.process.stdout.readline()
            assert line, f"it named no {pattern}: {self.lines}"
            self.lines.append(line.rstrip("\n"))
        return found[1]

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/ws"

    def api(self) -> str:
        """HOST:PORT of its HTTP API."""
        return self.api_url.removeprefix("http://")

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), PATIENCE_SECONDS)

    def open(self, offer: str = "news") -> socket.socket:
        """A socket whose handshake has succeeded."""
        client = self.connect()
        client.sendall(request(offer=offer))
        assert b" 101 " in read_head(client)
        return client

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        """Waits for its end."""
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return status

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.status()


@contextmanager
def serving(
    *arguments: str,
    listen: str = "127.0.0.1:0",
    api_listen: str | None = "127.0.0.1:0",
    dev: bool = True,
    prefix: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path = ROOT,
) -> Iterator[Served]:
    flags = ["--dev"] if dev else []
    if api_listen is not None:
        flags += ["--api-listen", api_listen]
    command = [*prefix, *COMMAND, "serve", *flags, "--listen", listen, *arguments]
    with kept(command, environment(**(extra or {})), pass_fds, cwd) as served:
        yield served


@contextmanager
def kept(
    command: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int] = (), cwd: Path | None = None
) -> Iterator[Served]:
    """What serves by any command, killed if it has not ended by itself."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        pass_fds=pass_fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Served(process)
        finally:
            if process.poll() is None:
                process.kill()


def read_exactly(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        got = client.recv(size - len(data))
        assert got, f"the stream ended after {data!r}"
        data += got
    return data


def read_head(client: socket.socket) -> bytes:
    """Up to the empty line, and not a byte further: frames may follow."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += read_exactly(client, 1)
    return data


def read_frame(client: socket.socket) -> tuple[int, bytes]:
    """Opcode and payload of one whole frame."""
    first, size = read_exactly(client, 2)
    assert first & 0xF0 == 0x80
    if size == 126:
        size = int.from_bytes(read_exactly(client, 2))
    elif size == 127:
        size = int.from_bytes(read_exactly(client, 8))
    return first & 0x0F, read_exactly(client, size)


def read_end(client: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    data = b""
    while got := client.recv(65536):
        data += got
    return data


def say_goodbye(client: socket.socket) -> int:
    """Reads up to the server's Close, answers it, and sees the server end first; returns the code."""
    with closing(client):
        while True:
            opcode, payload = read_frame(client)
            if opcode == 8:
                break
        client.sendall(close(int.from_bytes(payload[:2])))
        assert read_end(client) == b""
        return int.from_bytes(payload[:2])


@contextmanager
def talking(*arguments: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    """A command whose ends of its pipes are the test's; killed at the end if it has not ended by then."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
