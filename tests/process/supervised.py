"""A broker of several workers as its operator sees it: which process is which, and who serves whom."""

import os
import re
import select
import socket
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tests.process.command import PATIENCE_SECONDS, Served

A_WORKER = re.compile(r"worker \d+")
LATEST_CONNECT_SECONDS = 0.5


def configuration(folder: Path, *lines: str, limits: Iterable[str] = ()) -> list[str]:
    """Flags for a file with these lines in [supervisor] and [limits]."""
    file = folder / "broker.toml"
    file.write_text("\n".join(["[supervisor]", *lines, "[limits]", *limits]))
    return ["--config", str(file)]


def workers(broker: Served) -> dict[int, int]:
    """Process ids by worker index, of those that became ready last."""
    assert isinstance(broker.process.args, list)
    count = int(broker.process.args[broker.process.args.index("--workers") + 1])
    accepted = broker.logged("child accepts", count, child=A_WORKER)
    return {int(line["child"].removeprefix("worker ")): line["child_pid"] for line in accepted}


def children(broker: Served) -> list[int]:
    pid = broker.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worker_of(broker: Served, client: socket.socket) -> int:
    """The process that holds the other end of a connection."""
    (port,) = (client.getsockname()[1],)
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1].endswith(f":{broker.port:04X}") and words[2].endswith(f":{port:04X}"):
            inode = words[9]
            break
    else:
        raise AssertionError("no server has this connection")
    for child in children(broker):
        if f"socket:[{inode}]" in descriptors(child):
            return child
    raise AssertionError("no child has this connection")


def descriptors(pid: int) -> set[str]:
    folder = Path(f"/proc/{pid}/fd")
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(os.readlink(folder / name))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def client_of(broker: Served, pid: int, offer: str = "news") -> socket.socket:
    """A client that the kernel happened to give to this worker."""
    others = []
    try:
        while True:
            client = broker.open(offer)
            if worker_of(broker, client) == pid:
                return client
            others.append(client)
            assert len(others) < 500, "the kernel gives this worker nobody"
    finally:
        for other in others:
            other.close()


def all_gone(pidfds: Iterable[int], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether these processes end within the time."""
    until = time.monotonic() + seconds
    return all(select.select([pidfd], [], [], max(0.0, until - time.monotonic()))[0] for pidfd in pidfds)


def slowest_connect(broker: Served, count: int) -> float:
    """One handshake after the other; the seconds of the one that took longest."""
    slowest = 0.0
    for _ in range(count):
        begun = time.monotonic()
        with closing(broker.open()):
            slowest = max(slowest, time.monotonic() - begun)
    return slowest
