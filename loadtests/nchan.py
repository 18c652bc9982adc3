"""nchan beside us: the publisher endpoint of Debian's nginx, one worker process, pinned and watched as our broker is.

Messages are not kept (`nchan_message_buffer_length 0`), as channels without history keep none here. Everything else
that costs nothing to leave out is left out: no access log, no limit of requests on one connection.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from loadtests.server import START_SECONDS, STOP_SECONDS, BenchError, cpu_seconds_of, wait_until
from loadtests.wire import Address

NGINX = ("nginx", "/usr/sbin/nginx")
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PUBLISH_PATH, SUBSCRIBE_PATH = "/pub/news", "/sub/news"
CONFIG = """
load_module {module};
worker_processes 1;
daemon off;
{user}
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {host}:{port};
    nchan_message_buffer_length 0;
    location ~ ^/pub/(\\w+)$ {{ nchan_publisher http; nchan_channel_id $1; }}
    location ~ ^/sub/(\\w+)$ {{ nchan_subscriber websocket; nchan_channel_id $1; }}
  }}
}}
"""


def program() -> str:
    """nginx. Raises BenchError if it or its module is not here."""
    found = next(filter(None, map(shutil.which, NGINX)), None)
    if found is None or not MODULE.exists():
        raise BenchError(
            "what it is measured beside is missing; install it with: sudo apt-get install nginx libnginx-mod-nchan"
        )
    return found


class Nchan:
    """A context, on a port of its own. `cpus` is where it runs."""

    def __init__(self, cpus: set[int]) -> None:
        command = program()
        self._folder = tempfile.TemporaryDirectory(prefix="ws-broker-bench-nchan-")
        folder = Path(self._folder.name)
        self.address = _free_address()
        # As root nginx would give its worker away to a user who may not look into our directory.
        user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
        host, port = self.address
        text = CONFIG.format(module=MODULE, folder=folder, host=host, port=port, user=user)
        (folder / "nginx.conf").write_text(text)
        self._log = folder / "stderr"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [command, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        os.sched_setaffinity(self._process.pid, cpus)  # before it has a worker, which inherits it, or hardly after
        if not wait_until(lambda: self._answers() or self._process.poll() is not None, START_SECONDS) or self._died:
            text = self.log()
            self._end()
            raise BenchError(f"nginx did not start: {text or 'it said nothing'}")
        for pid in self.pids():
            os.sched_setaffinity(pid, cpus)

    def __enter__(self) -> "Nchan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def _died(self) -> bool:
        return self._process.poll() is not None

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(self.address) == 0

    def _end(self) -> None:
        if not self._died:
            self._process.send_signal(signal.SIGTERM)  # the worker ends with its master
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def pids(self) -> list[int]:
        """The master and its worker."""
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds_of, self.pids()))


def _free_address() -> Address:
    """nginx takes no port 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        return host, port
