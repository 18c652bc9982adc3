"""A child of the supervisor: `python -m broker.supervisor.child FD`, a worker or the engine.

FD is a memfd with a ChildSpec as JSON: nothing of it, least of all a secret, stands in the arguments, which every user
of the machine can read. The child dies with its supervisor, whatever kills that.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import msgspec
import uvloop

from broker import log
from broker.config.schema import Config
from broker.engine import process as engine_process
from broker.engine.base import Sink
from broker.engine.link import LinkEngine
from broker.gauges import write_holdings
from broker.metrics.page import Page
from broker.native import _counters
from broker.native.counting import Count
from broker.supervisor.siblings import Siblings
from broker.worker import Worker, serve

_PR_SET_PDEATHSIG = 1
_LINK_LOST = _counters.NAMES.index("n_link_lost")
_MOST_SPEC_BYTES = 1 << 22


class ChildSpec(msgspec.Struct, frozen=True):
    """Everything a child is told. File descriptors have the same numbers in the supervisor and in the child."""

    role: Literal["worker", "engine"]
    config: Config
    supervisor_pid: int
    page_fd: int
    slot: int
    workers: int
    # A byte is written to it once the child accepts.
    ready_fd: int
    # Where workers find the engine: connect to it as it stands (an abstract Unix name, random, with its leading NUL).
    # Anybody on this machine may connect to such a name: whoever accepts checks SO_PEERCRED.
    link_address: str
    # The engine only: the listening socket of that address. It outlives the engine, so that workers can wait in it.
    link_fd: int = -1
    # Workers only. All listeners, and by worker index the positions of those that it polls.
    index: int = 0
    generation: int = 0
    listeners: tuple[int, ...] = ()
    pollers: tuple[tuple[int, ...], ...] = ()
    # The listener of the HTTP API, which all workers share; -1 = there is none.
    api_fd: int = -1
    # Which of the page's pattern counters each channel pattern has.
    pattern_places: dict[str, int] = {}

    @property
    def name(self) -> str:
        return self.role if self.role == "engine" else f"worker {self.index}"

    @property
    def fds(self) -> tuple[int, ...]:
        """What the child has to inherit."""
        return (self.page_fd, self.ready_fd, *(fd for fd in (self.link_fd, self.api_fd) if fd >= 0), *self.listeners)


def write_spec(spec: ChildSpec) -> int:
    """A file descriptor for the child."""
    fd = os.memfd_create("ws-broker-child")
    os.write(fd, msgspec.json.encode(spec))
    return fd


def read_spec(fd: int) -> ChildSpec:
    spec = msgspec.json.decode(os.pread(fd, _MOST_SPEC_BYTES, 0), type=ChildSpec)
    os.close(fd)
    return spec


def die_with(supervisor_pid: int) -> None:
    """Lets the kernel kill this process when the supervisor ends, and ends it if that has happened already.

    SIGKILL, as nobody is left who would look after an orphan that drains or hangs.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor_pid:
        os._exit(1)


def _ready(fd: int) -> None:
    os.write(fd, b"+")
    os.close(fd)


async def _serve_worker(spec: ChildSpec, page: Page) -> None:
    row = page.row(spec.slot)
    sockets = {at: socket.socket(fileno=fd) for at, fd in enumerate(spec.listeners)}
    polled = spec.pollers[spec.index]
    siblings = Siblings(page, spec.index, spec.slot, spec.pollers, spec.listeners)
    links: list[LinkEngine] = []

    def link(sink: Sink) -> LinkEngine:
        links.append(LinkEngine(sink, spec.link_address, spec.slot, spec.config.limits))
        return links[0]

    def beat(worker: Worker) -> Iterable[int]:
        row.link_up = links[0].up
        return siblings.beat(worker)

    def ready() -> None:
        siblings.accepting()
        _ready(spec.ready_fd)

    await serve(
        spec.config,
        [sockets[at] for at in polled],
        ready,
        delay=False,  # the supervisor has waited
        counters=row.counters,
        taken=page.taken,
        engine=link,
        siblings=[sockets[at] for at in sockets if at not in polled],
        beat=beat,
        api=socket.socket(fileno=spec.api_fd) if spec.api_fd >= 0 else None,
        pattern_places=spec.pattern_places,
    )


async def _serve_engine(spec: ChildSpec, page: Page) -> None:
    row = page.row(spec.slot)

    counters = row.counters

    def beat(engine: engine_process.EngineProcess) -> None:
        counters[_LINK_LOST] = engine.exchange.lost_count
        write_holdings(counters, engine.holdings())
        row.heartbeat_ns = time.monotonic_ns()
        log.tell_suppressed()

    with socket.socket(fileno=spec.link_fd) as listener:
        listener.setblocking(False)
        serving = asyncio.ensure_future(
            engine_process.serve(listener, spec.config, beat, lambda: _ready(spec.ready_fd))
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving


ROLES: dict[str, Callable[[ChildSpec, Page], object]] = {
    "worker": lambda spec, page: uvloop.run(_serve_worker(spec, page)),
    "engine": lambda spec, page: uvloop.run(_serve_engine(spec, page)),
}


def main() -> None:
    spec = read_spec(int(sys.argv[1]))
    die_with(spec.supervisor_pid)
    # A terminal's Ctrl-C is for the supervisor, which tells its children what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.configure(spec.name, spec.config.log)
    page = Page(spec.page_fd, spec.workers)
    row = page.row(spec.slot)
    row.begin(os.getpid())
    log.count_suppressed(partial(Count(row.counters), "n_log_suppressed"))
    ROLES[spec.role](spec, page)


if __name__ == "__main__":
    main()
