"""What the supervisor tells a child, and how: as JSON in a memfd, which nobody else can read."""

import os
from typing import Literal

import msgspec

from broker.config.schema import Config

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


def tell_ready(spec: ChildSpec) -> None:
    """What the supervisor waits for: this child serves."""
    os.write(spec.ready_fd, b"+")
    os.close(spec.ready_fd)
