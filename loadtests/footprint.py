"""Scenario `footprint`: what one connection and one delivery need, for sizing (docs/operations.md).

Idle connections of one kind at a time, each kind against a broker of its own: memory of the broker (PSS), and of the
kernel (Slab of /proc/meminfo, which counts both ends of each connection; the broker's is half). Then one channel whose
subscribers all read: CPU of the broker for each delivery, with one message in flight and with many.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.crowd import Crowd, Spec
from loadtests.report import Progress, Result
from loadtests.server import BenchError, Server, need_files
from loadtests.token_connect import CONFIG, Tokens
from loadtests.wire import client_frame, open_many, server_frame

NAME = "footprint"
TITLE = "memory of a connection and CPU of a delivery, for sizing"
QUIET_SECONDS = 20.0
BURST_MESSAGES = 64
WARM_UP = 64
ROOMS = ", ".join(f"room.{number}" for number in range(8))
KINDS = {
    "raw, one channel": "news",
    "JSON, one channel": "broker.json.v1, news",
    "JSON, eight channels": f"broker.json.v1, {ROOMS}",
}


@dataclass(frozen=True)
class Size:
    """`readers` of each of `messages`, for each size in bytes."""

    idle: int = 8000
    readers: int = 4000
    messages: int = 40
    payloads: tuple[int, ...] = (128, 1024, 16_384)


QUICK = Size(idle=100, readers=50, messages=4)


def scaled(factor: float) -> Size:
    return Size(idle=max(100, int(8000 * factor)), readers=max(100, int(4000 * factor)))


def run(size: Size, progress: Progress) -> Result:
    need_files(max(size.idle + WARM_UP, size.readers) + 64)
    result = Result(NAME, TITLE)
    for kind, offer in KINDS.items():
        progress(f"{size.idle} idle connections: {kind}")
        _idle(size, kind, [offer] * (WARM_UP + size.idle), result)
    progress(f"{size.idle} idle connections: raw, a channel each")
    _idle(size, "raw, a channel each", [f"user.{number}" for number in range(WARM_UP + size.idle)], result)
    progress(f"{size.idle} idle connections: a user each")
    with tempfile.TemporaryDirectory() as folder:
        tokens = Tokens(Path(folder) / "key.pem")
        offers = [f"broker.json.v1, news, bearer.{tokens.make()}" for _ in range(WARM_UP + size.idle)]
        config = CONFIG.format(file=Path(folder) / "key.pem")
        _idle(size, "JSON, one channel, a user and a token each", offers, result, config)
    for payload in size.payloads:
        progress(f"{size.messages} messages of {payload} bytes to {size.readers} readers")
        _deliver(size, payload, result)
    return result


def _idle(size: Size, kind: str, offers: Sequence[str], result: Result, config: str = "") -> None:
    """The first connections find what every broker allocates once."""
    with Server(config) as server:
        first = list(open_many(server.address, offers[:WARM_UP]))
        before, slab = _pss_bytes(server.pid), _slab_bytes()
        rest = list(open_many(server.address, offers[WARM_UP:]))
        result.add(f"memory of an idle connection: {kind}", (_pss_bytes(server.pid) - before) / size.idle, "bytes")
        if kind == next(iter(KINDS)):  # the others have a hello that nobody has read
            result.add("memory of its socket in the kernel", (_slab_bytes() - slab) / size.idle / 2, "bytes")
        for sock in (*first, *rest):
            sock.close()
        result.failures += server.stop()


def _deliver(size: Size, payload: int, result: Result) -> None:
    """One message in flight, and then many at once."""
    with Server() as server:
        with Crowd(Spec(server.address, {"news|recv": size.readers})) as crowd:
            crowd.opened()
            _publish(server, crowd, size, payload, result)
        result.failures += server.stop()


def _publish(server: Server, crowd: Crowd, size: Size, payload: int, result: Result) -> None:
    (publisher,) = open_many(server.address, ["news|send"])
    publisher.setblocking(True)
    frame, due = client_frame(b"." * payload), 0
    # 64 large messages are a test of queues, which `stalled` is.
    for at_once in (1, BURST_MESSAGES) if payload <= 1024 else (1,):
        rounds = max(2, size.messages // at_once)
        used = server.cpu_seconds()
        for _ in range(rounds):
            publisher.sendall(frame * at_once)
            due += len(server_frame(b"." * payload)) * at_once
            _until_read(crowd, due)
        each = (server.cpu_seconds() - used) / (rounds * at_once * size.readers)
        result.add(f"CPU of a delivery: {payload} bytes, {at_once} at once", each * 1e6, "us")
    publisher.close()
    result.failures += [f"readers cut: {crowd.count().endings}"] if crowd.count().ended else []


def _until_read(crowd: Crowd, due: int) -> None:
    count = crowd.wait_for(lambda now: now.fewest_bytes >= due, QUIET_SECONDS)
    if count.fewest_bytes < due:
        raise BenchError(f"a reader has {count.fewest_bytes} bytes of {due} after {QUIET_SECONDS:.0f} s")


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchError("the broker has no memory: it died")


def _slab_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            return int(line.split()[1]) * 1024
    raise BenchError("/proc/meminfo has no Slab line")
