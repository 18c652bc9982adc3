"""The broker that a load test starts: `ws-broker serve` with broker.toml, a key for this run, free ports."""

import hashlib
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.request import urlopen

from loadtests.server import ROOT, BenchError

CONFIG = Path(__file__).with_name("broker.toml")
START_SECONDS = 30.0
STOP_SECONDS = 30.0
_SOCKETS = re.compile(r"ws://\S+:\d+/\S*")
_API = re.compile(r"(http://\S+)/v1/")
_ADMIN = re.compile(r"(http://\S+)/metrics")
_KEY = '\n[api.keys.loadtest]\nsha256 = "{sha256}"\nscopes = ["publish"]\n'


class Broker:
    """A context. `url` is where its WebSockets are, `api_url` its HTTP API, `key` that API's; its log goes to `log`.

    `template`: a configuration to which the key is added.
    """

    def __init__(self, folder: Path, workers: int, template: Path) -> None:
        self.log = folder / "broker.log"
        self.key = secrets.token_urlsafe(32)
        config = folder / "broker.toml"
        config.write_text(template.read_text() + _KEY.format(sha256=hashlib.sha256(self.key.encode()).hexdigest()))
        command = [sys.executable, "-m", "broker", "serve", "--config", str(config), "--workers", str(workers)]
        free = "127.0.0.1:0"
        variables = dict.fromkeys(("WSBROKER_SERVER_LISTEN", "WSBROKER_API_LISTEN", "WSBROKER_ADMIN_LISTEN"), free)
        self._said = ""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            self.url, self.api_url = self._addresses()
        except BaseException:
            self._kill()
            raise

    def _addresses(self) -> tuple[str, str]:
        """As it names them on standard output."""
        deadline = time.monotonic() + START_SECONDS
        while (left := deadline - time.monotonic()) > 0 and self._hear(left):
            sockets, api = _SOCKETS.search(self._said), _API.search(self._said)
            if sockets and api:
                return sockets[0], api[1]
        raise BenchError(f"the broker did not start: {self.log.read_text() or self._said or 'it said nothing'}")

    def _hear(self, seconds: float) -> bool:
        """Takes what it says; false if it said nothing in that time, or never will."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        data = os.read(fd, 4096) if select.select([fd], [], [], seconds)[0] else b""
        self._said += data.decode()
        return bool(data)

    def __enter__(self) -> "Broker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def metrics(self) -> str | None:
        """What its admin port says, if it has one."""
        while self._hear(0):
            pass  # it names that port after the others
        found = _ADMIN.search(self._said)
        if found is None:
            return None
        try:
            with urlopen(f"{found[1]}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except (URLError, OSError):
            return None

    def stop(self) -> list[str]:
        """SIGTERM. Returns what was wrong with its life or its end."""
        status = self._process.poll()
        if status is not None:
            return [f"the broker died with status {status}; see {self.log}"]
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return [f"the broker did not end within {STOP_SECONDS:.0f} s of SIGTERM"]
        return [f"the broker ended with status {status}; see {self.log}"] if status else []

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
