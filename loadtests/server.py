"""The broker under test: its own process and port, pinned, watched through /proc, stopped as an operator would.

Every scenario starts one and ends it. It reads what any operator could read; nothing is asked of the broker itself.
"""

import contextlib
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from loadtests.wire import Address

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
_ADDRESS = re.compile(rb"http://([0-9.]+):(\d+)/")
# The line that --dev prints for a shell: the key of this run, and where the HTTP API is.
_API = re.compile(rb"Bearer ([^' ]+)'.* http://([0-9.]+):(\d+)/v1/")
STATE = '[server]\nstate_directory = "{folder}"\n'
# What a broker with --dev says anyway.
_INFORMATION = re.compile(r'\{"ts": "\S+", "level": ("info"|"warning", "event": "setting is unsafe")')
# Clients count bytes of frames that all have one size; a ping would be two bytes that belong to no message.
NO_PINGS = "[limits]\nping_seconds = 3600.0\n"


class BenchError(Exception):
    """This machine or this broker cannot be measured; the text says why and what to do."""


def cpu_sets() -> tuple[set[int], set[int]]:
    """(the server's CPUs, the load's): apart if this process may use two or more, else the same one."""
    cpus = sorted(os.sched_getaffinity(0))
    return ({cpus[0]}, set(cpus[1:])) if len(cpus) > 1 else (set(cpus), set(cpus))


@contextlib.contextmanager
def off_the_servers_cpu() -> Iterator[set[int]]:
    """Keeps this process, and the crowds it starts, off the server's CPU; yields the set that a server is to have.

    A measuring process that has precedence would otherwise push the broker off its CPU now and then: up to 1 s in 10
    (schedstat), which looked like rare bad moments of the broker.
    """
    before = os.sched_getaffinity(0)
    ours, load = cpu_sets()
    os.sched_setaffinity(0, load)
    try:
        yield ours
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def precedence() -> Iterator[bool]:
    """Gives this process, which measures time, precedence over the crowds beside it; yields whether it may (root may).

    Without it a crowd of 15 000 readers on the same CPU delays the measuring itself: 29 ms of p99 where the broker had
    4 (measured). Children start without it (sched(7), SCHED_RESET_ON_FORK).
    """
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, *before)


def need_files(count: int) -> None:
    """Raises the limit of open files as far as it may go; raises BenchError if that is less than `count`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchError(
            f"needs {count} open files per process and may have {hard}; raise the hard limit (ulimit -Hn) or --scale"
        )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class Server:
    """A context: `with Server(config) as server`. It has the first CPU; who uses it has the others meanwhile.

    `config` goes on in [limits]. With several `workers` everything said of /proc is the sum over supervisor and
    children. What it keeps for its next life is in a directory of its own, so `restart` loses nothing. `api` is where
    its HTTP API is, with a key of all scopes.
    """

    api: Address
    api_key: str

    def __init__(self, config: str = "", workers: int = 1) -> None:
        self._pinned = contextlib.ExitStack()
        self._folder = tempfile.TemporaryDirectory(prefix="ws-broker-bench-")
        self._workers = workers
        self._file = Path(self._folder.name) / "broker.toml"
        self._file.write_text(STATE.format(folder=self._folder.name) + NO_PINGS + config)
        self._log = Path(self._folder.name) / "stderr"
        self._cpus = self._pinned.enter_context(off_the_servers_cpu())
        self.address = self._start("127.0.0.1:0")

    def _start(self, listen: str) -> Address:
        command = [sys.executable, "-m", "broker", "serve", "--dev", "--listen", listen, "--config", str(self._file)]
        command += ["--api-listen", "127.0.0.1:0", "--workers", str(self._workers)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                # After a restart the port next to ours, which --dev would take, may be somebody's. So may 9000 be.
                env={**os.environ, "WSBROKER_API_LISTEN": "127.0.0.1:0", "WSBROKER_ADMIN_LISTEN": "127.0.0.1:0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.pid = self._process.pid
        os.sched_setaffinity(self.pid, self._cpus)  # before it has children: they inherit it
        return self._wait_for_address()

    def _wait_for_address(self) -> Address:
        assert self._process.stdout is not None, "it was made a pipe"
        fd = self._process.stdout.fileno()
        said = b""
        while select.select([fd], [], [], START_SECONDS)[0]:
            data = os.read(fd, 4096)
            said += data
            found, api = _ADDRESS.search(said), _API.search(said)
            if found and api:
                self.api_key, self.api = api[1].decode(), (api[2].decode(), int(api[3]))
                return found[1].decode(), int(found[2])
            if not data:
                break
        text = self.log()
        self._end()
        raise BenchError(f"the broker did not start: {text or 'it said nothing'}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._kill()
        self._pinned.close()
        self._folder.cleanup()

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def log(self) -> str:
        """The last lines of what it complained of on stderr; a supervisor also tells there who comes and goes."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if not _INFORMATION.match(line)][-20:])

    def stop(self) -> list[str]:
        """SIGTERM, as an operator would. Returns what was wrong with how it ran or ended; empty = nothing."""
        died = self._process.poll()
        problems: list[str] = []
        if died is not None:
            problems.append(f"the broker died with status {died}")
        else:
            self._process.send_signal(signal.SIGTERM)
            try:
                status = self._process.wait(STOP_SECONDS)
                if status:
                    problems.append(f"the broker ended with status {status} after SIGTERM")
            except subprocess.TimeoutExpired:
                problems.append(f"the broker did not end within {STOP_SECONDS:.0f} s of SIGTERM")
        self._kill()
        if self.log():
            problems.append(f"the broker wrote to stderr: {self.log()}")
        return problems

    def terminate(self) -> None:
        """SIGTERM, without waiting; `stop` or `restart` follows."""
        self._process.send_signal(signal.SIGTERM)

    def restart(self) -> list[str]:
        """Stops it, and starts it at the same address with what it has left for its next life."""
        problems = self.stop()
        self._start(f"{self.address[0]}:{self.address[1]}")
        return problems

    # What /proc says.

    def pids(self) -> list[int]:
        """The process and, with several workers, its children: the engine and the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def rss_bytes(self) -> int:
        """What processes share counts once for each."""
        return sum(map(_rss_bytes, self.pids()))

    def files(self) -> int:
        """Open file descriptors."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def cpu_seconds(self) -> float:
        """Of those that live: what a child used that has ended is not in it."""
        return sum(map(cpu_seconds_of, self.pids()))

    def waited_seconds(self) -> float:
        """How long it was ready to run and another process had its CPU: what other work on this machine did to it, and,
        with several workers on that CPU, what they did to each other.
        """
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in self.pids()) / 1e9

    def peers(self) -> dict[Address, int]:
        """Which process serves whom: the client's address, and the process that has the other end."""
        holders = {inode: pid for pid in self.pids() for inode in _sockets(pid)}
        port = f":{self.address[1]:04X}"
        found: dict[Address, int] = {}
        with open("/proc/net/tcp") as file:
            next(file)
            for line in file:
                fields = line.split()
                if fields[1].endswith(port) and fields[9] in holders and fields[3] != "0A":
                    host, _, number = fields[2].partition(":")
                    found[socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(number, 16)] = holders[fields[9]]
        return found

    def unsent_bytes(self) -> list[int]:
        """For each of its connections: bytes written by the broker that the peer has not acknowledged (tx_queue)."""
        port = f":{self.address[1]:04X}"
        unsent = []
        with open("/proc/net/tcp") as file:
            next(file)
            for line in file:
                fields = line.split()
                if fields[1].endswith(port) and fields[3] != "0A":  # 0A = the listener
                    unsent.append(int(fields[4].partition(":")[0], 16))
        return unsent


def _rss_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise BenchError("the broker has no memory: it died")


def cpu_seconds_of(pid: int) -> float:
    """User and system, in steps of 10 ms (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of its sockets."""
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                yield target[len("socket:[") : -1]


def kernel_tcp_bytes() -> int:
    """Memory of all TCP sockets of this machine, as the kernel accounts for it; other programs' sockets too."""
    with open("/proc/net/sockstat") as file:
        for line in file:
            if line.startswith("TCP:"):
                fields = line.split()
                return int(fields[fields.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")
    raise BenchError("/proc/net/sockstat has no TCP line")
