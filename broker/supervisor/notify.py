"""Talking with systemd (sd_notify(3), sd_listen_fds(3)): what it is told, and the sockets that it passes.

Plain datagrams and environment variables; without systemd every function here does nothing. The variables are taken out
of the environment, so that no child believes that they are meant for it.
"""

import math
import os
import socket
import time
from collections.abc import MutableMapping
from typing import NamedTuple

from broker.log import get_logger

log = get_logger(__name__)

FIRST_PASSED_FD = 3
# What is said once waits this long for a receiver that does not read; then it is lost, and not the broker. What is said
# again and again does not wait.
SEND_SECONDS = 1.0


class Notifier:
    """Sends to NOTIFY_SOCKET, or nothing if there is none. `watchdog_seconds`: WATCHDOG=1 is due twice in that time."""

    def __init__(self, address: str | None = None, watchdog_seconds: float | None = None) -> None:
        self.watchdog_seconds = watchdog_seconds if address else None
        self._next_watchdog = math.inf  # from readiness on
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "Notifier":
        address = environment.pop("NOTIFY_SOCKET", None)
        microseconds = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        seconds = int(microseconds) / 1e6 if ours and microseconds.isdecimal() and int(microseconds) else None
        return cls(address, seconds)

    @property
    def active(self) -> bool:
        return self._socket is not None

    def send(self, *lines: str, patience_seconds: float = 0.0) -> None:
        """One datagram. A receiver that is gone is no reason to stop serving."""
        if self._socket is None:
            return
        self._socket.settimeout(patience_seconds)
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("systemd could not be told", what=lines[0], error=str(error))

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}", patience_seconds=SEND_SECONDS)
        self._next_watchdog = 0.0

    def reloading(self) -> None:
        """Type=notify-reload wants the moment as well, by CLOCK_MONOTONIC."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", patience_seconds=SEND_SECONDS)

    def stopping(self, status: str) -> None:
        self.send("STOPPING=1", f"STATUS={status}", patience_seconds=SEND_SECONDS)

    def status(self, status: str) -> None:
        self.send(f"STATUS={status}")

    def watchdog_if_due(self, now: float, every: float) -> None:
        """Called every so many seconds while all is well: speaks at half of the watchdog's time at the latest."""
        if self.watchdog_seconds is not None and now >= self._next_watchdog:
            self._next_watchdog = now + self.watchdog_seconds / 2 - every
            self.send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """The end takes at least that much longer."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class PassedSocketError(Exception):
    """What was passed is no listening TCP socket; the text names it."""


class Passed(NamedTuple):
    """A socket and the name that it was passed with (FileDescriptorName=)."""

    name: str
    socket: socket.socket


def passed_sockets(environment: MutableMapping[str, str] = os.environ) -> list[Passed]:
    """The listening sockets of socket activation, non-blocking; none without it. Raises PassedSocketError.

    They stay open in systemd, so they are never shut down, and connections may wait in them over a restart.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets: list[Passed] = []
    for at in range(int(count)):
        fd = FIRST_PASSED_FD + at
        name = names[at] if at < len(names) and names[at] else "unknown"
        sockets.append(Passed(name, _listener(fd, f"LISTEN_FDS: file descriptor {fd} ({name})")))
    return sockets


def _listener(fd: int, what: str) -> socket.socket:
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise PassedSocketError(f"{what} is no socket: {error.strerror}") from None
    tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
    if not tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise PassedSocketError(f"{what} is no listening TCP socket")
    listener.setblocking(False)
    os.set_inheritable(fd, False)
    return listener
