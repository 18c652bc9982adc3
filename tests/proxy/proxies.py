"""The files of deploy/proxy as they are shipped, each started as the real proxy on a socket of the test's own.

Only addresses, ports, paths and the user are written anew, and each of these has to stand in the file exactly once.
nginx and HAProxy take over a socket that already listens; Envoy says when it is there.
"""

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

from tests.integration.harness import request
from tests.process.books import until
from tests.process.command import PATIENCE_SECONDS, ROOT, read_head

SHIPPED = ROOT / "deploy/proxy"
# As root they would give up their rights by themselves; here they never have any.
USER = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCHED)
    assert found is not None, f"{name} is missing: run deploy/packages.sh test"
    return found


def rewritten(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
        text = text.replace(old, new)
    return text


class Upstream(NamedTuple):
    """Ports of the broker on 127.0.0.1."""

    broker: int
    admin: int


class Proxy(ABC):
    """One that runs. Everything it writes lies in `folder`."""

    file: ClassVar[str]
    # Whether it can be given a socket that listens already.
    takes_over: ClassVar[bool] = True
    # What to write for "2 seconds of silence".
    idle: ClassVar[Mapping[str, str]]

    def __init__(self, folder: Path, listener: socket.socket, certificate: Path, upstream: Upstream) -> None:
        self.folder, self.listener, self.certificate, self.upstream = folder, listener, certificate, upstream
        self.port: int = listener.getsockname()[1]
        self.said = folder / "said"

    @abstractmethod
    def places(self) -> dict[str, str]: ...

    @abstractmethod
    def command(self) -> list[str]: ...

    def environment(self) -> dict[str, str]:
        return {}

    @property
    def user(self) -> int | None:
        """Whom it runs as; None: whoever runs the tests."""
        return USER.pw_uid if os.geteuid() == 0 else None

    def start(self, changes: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        text = rewritten((SHIPPED / self.file).read_text(), {**self.places(), **changes})
        (self.folder / self.file).write_text(text)
        with self.said.open("ab") as said:
            return subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={"PATH": SEARCHED, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=[self.listener.fileno()] if self.takes_over else [],
                user=self.user,
                group=None if self.user is None else USER.pw_gid,
                extra_groups=None if self.user is None else [],
            )

    @contextmanager
    def running(self, changes: Mapping[str, str]) -> Iterator["Proxy"]:
        self.process = self.start(changes)
        try:
            until(lambda: self.ready() or self.process.poll() is not None, self.logs)
            assert self.process.poll() is None, self.logs()
            yield self
        finally:
            self.stop()

    @abstractmethod
    def ready(self) -> bool: ...

    def stop(self) -> None:
        """At once, with every process of it, and what it had to say is written."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in [*sorted(self.folder.glob("log/*")), self.said])

    @abstractmethod
    def reload(self) -> None:
        """As an operator does; returns when the new one serves and the old one takes nobody any more."""

    def connect(self, source: str = "127.0.0.1") -> ssl.SSLSocket:
        """TLS, with the certificate checked. `source` is the client's address, any of 127.0.0.0/8."""
        context = ssl.create_default_context(cafile=str(self.certificate / "cert.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS, source_address=(source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname="localhost")

    def ask(self, head: bytes, source: str = "127.0.0.1") -> tuple[ssl.SSLSocket, str]:
        """A connection of its own, and the head of the answer."""
        client = self.connect(source)
        client.sendall(head)
        return client, read_head(client).decode("latin-1")

    def open(self, offer: str | None = "public.news", *extra: str, source: str = "127.0.0.1") -> ssl.SSLSocket:
        client, answer = self.ask(request("/ws", *extra, offer=offer), source)
        assert answer.startswith("HTTP/1.1 101 "), answer + self.logs()
        return client

    def status(self, head: bytes) -> int:
        client, answer = self.ask(head)
        client.close()
        return int(answer.split(" ")[1])


class Nginx(Proxy):
    file = "nginx.conf"
    idle: ClassVar = {"proxy_read_timeout 60s;": "proxy_read_timeout 2s;"}

    def places(self) -> dict[str, str]:
        (self.folder / "log").mkdir()
        os.chown(self.folder / "log", USER.pw_uid, USER.pw_gid)
        temporary = {f" /var/lib/nginx/{name};": f" {self.folder}/{name};" for name in TEMPORARY}
        return {
            **temporary,
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "listen [::]:443 ssl": f"listen unix:{self.folder}/tls ssl",
            "server 127.0.0.1:8000;": f"server 127.0.0.1:{self.upstream.broker};",
            " /etc/ssl/certs/ws-broker.pem;": f" {self.certificate}/cert.pem;",
            " /etc/ssl/private/ws-broker.key;": f" {self.certificate}/key.pem;",
            " /run/nginx.pid;": f" {self.folder}/pid;",
            " /var/log/nginx/error.log ": f" {self.folder}/log/error ",
            " /var/log/nginx/ws-broker.log ": f" {self.folder}/log/access ",
        }

    def command(self) -> list[str]:
        return [program("nginx"), "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / self.file)]

    def environment(self) -> dict[str, str]:
        return {"NGINX": f"{self.listener.fileno()};"}  # how it hands its sockets to its next version

    def workers(self) -> dict[int, str]:
        """Their process ids, and what they call themselves."""
        pid, found = self.process.pid, {}
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError):  # ended meanwhile
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().rstrip("\0 ")
        return found

    def ready(self) -> bool:
        return any(name.endswith("worker process") for name in self.workers().values())

    def reload(self) -> None:
        old = set(self.workers())
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self._reloaded(old), lambda: f"{self.workers()}\n{self.logs()}")

    def _reloaded(self, old: set[int]) -> bool:
        now = self.workers()
        ending = all(name.endswith("shutting down") for pid, name in now.items() if pid in old)
        return ending and any(name.endswith("worker process") for pid, name in now.items() if pid not in old)


TEMPORARY = ("body", "proxy", "fastcgi", "uwsgi", "scgi")


class Haproxy(Proxy):
    file = "haproxy.cfg"
    idle: ClassVar = {"timeout tunnel 60s": "timeout tunnel 2s"}

    def places(self) -> dict[str, str]:
        group = subprocess.check_output(["id", "-gn", USER.pw_name], text=True).strip()
        return {
            "stats socket /run/haproxy/admin.sock ": f"stats socket {self.folder}/admin ",
            "user haproxy\n": f"user {USER.pw_name}\n",
            "group haproxy\n": f"group {group}\n",
            "bind :::443 v4v6 ssl": f"bind fd@{self.listener.fileno()} ssl",
            " crt /etc/haproxy/ws-broker.pem ": f" crt {self.certificate}/both.pem ",
            " 127.0.0.1:8000 send-proxy-v2": f" 127.0.0.1:{self.upstream.broker} send-proxy-v2",
            " port 9000\n": f" port {self.upstream.admin}\n",
        }

    def command(self) -> list[str]:
        """With a socket of the master's, as Debian's unit has it."""
        return [program("haproxy"), "-W", "-S", str(self.folder / "master"), "-f", str(self.folder / self.file)]

    def told(self, command: str) -> str:
        """What the master answers; nothing as long as none is there."""
        with socket.socket(socket.AF_UNIX) as master:
            master.settimeout(PATIENCE_SECONDS)
            try:
                master.connect(str(self.folder / "master"))
                master.sendall(f"{command}\n".encode())
                master.shutdown(socket.SHUT_WR)  # else it waits for more
                return "".join(iter(lambda: master.recv(4096).decode(), ""))
            except (FileNotFoundError, ConnectionError):
                return ""

    def workers(self) -> tuple[set[str], set[str]]:
        """Process ids, of now and of before the reload."""
        now, _, old = self.told("show proc").partition("# old workers")
        return set(re.findall(r"^(\d+) +worker ", now, re.MULTILINE)), set(
            re.findall(r"^(\d+) +worker ", old, re.MULTILINE)
        )

    def ready(self) -> bool:
        return bool(self.workers()[0])

    def reload(self) -> None:
        before, _ = self.workers()
        self.told("reload")
        until(lambda: self._reloaded(before), lambda: f"{self.told('show proc')}\n{self.logs()}")

    def _reloaded(self, before: set[str]) -> bool:
        now, old = self.workers()
        return bool(now) and old == before


class Envoy(Proxy):
    file = "envoy.yaml"
    takes_over = False
    idle: ClassVar = {"stream_idle_timeout: 60s": "stream_idle_timeout: 2s"}

    def __init__(self, folder: Path, listener: socket.socket, certificate: Path, upstream: Upstream) -> None:
        super().__init__(folder, listener, certificate, upstream)
        self._older: list[subprocess.Popen[bytes]] = []

    def places(self) -> dict[str, str]:
        return {
            '{address: "0.0.0.0", port_value: 443}': f"{{address: 127.0.0.1, port_value: {self.port}}}",
            '"/etc/envoy/ws-broker.pem"': f'"{self.certificate}/cert.pem"',
            '"/etc/envoy/ws-broker.key"': f'"{self.certificate}/key.pem"',
            "port_value: 8000": f"port_value: {self.upstream.broker}",
            "port_value: 9000": f"port_value: {self.upstream.admin}",
        }

    def command(self) -> list[str]:
        """Each has a number of its own, by which its successor finds it."""
        # The wheel lies in the environment of the tests, where nobody else may look.
        envoy = [str(Path(sys.executable).with_name("envoy")), "-c", str(self.folder / self.file)]
        number = self.folder / "number"
        if not self.started():
            which = ["--use-dynamic-base-id", "--base-id-path", str(number)]
        else:
            which = ["--base-id", number.read_text(), "--restart-epoch", "1", "--parent-shutdown-time-s", "3600"]
        return [*envoy, *which, "--concurrency", "2", "--file-flush-interval-msec", "50"]

    @property
    def user(self) -> int | None:
        return None

    def started(self) -> int:
        return self.said.read_text().count("all dependencies initialized. starting workers")

    def ready(self) -> bool:
        return self.started() == 1

    def reload(self) -> None:
        """A hot restart: the next one takes the sockets over, this one keeps its connections."""
        first, self.process = self.process, self.start({})
        self._older.append(first)
        until(lambda: self.started() == 2, self.logs)

    def stop(self) -> None:
        super().stop()
        for process in self._older:
            process.kill()
            process.wait()


@contextmanager
def proxied(
    kind: type[Proxy], upstream: Upstream, certificate: Path, changes: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory(prefix=f"wsb-{kind.__name__.lower()}-") as name, socket.socket() as listener:
        folder = Path(name)
        os.chown(folder, USER.pw_uid, USER.pw_gid)
        # One that only holds the port lets Envoy bind it too, which sets the same option.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        if kind.takes_over:
            listener.listen(4096)
        with kind(folder, listener, certificate, upstream).running(changes or {}) as proxy:
            yield proxy
