"""What a broker under systemd is given, without systemd: a socket to notify, and listening sockets from 3 on."""

import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.process.command import PATIENCE_SECONDS

# Puts the file descriptors named by the first argument at 3 and up, named as the second says, and becomes the rest.
_HAND_OVER = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for at, fd in enumerate(fds):
    os.dup2(fd, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def notifications() -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A receiver, and the environment that names it."""
    name = f"ws-broker-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(PATIENCE_SECONDS)
        yield receiver, {"NOTIFY_SOCKET": f"@{name}"}


def next_message(receiver: socket.socket) -> str:
    return receiver.recv(4096).decode()


def said(receiver: socket.socket, first: str) -> str:
    """The next message that begins so. What is said by the clock may come before it, on a slow machine."""
    while not (message := next_message(receiver)).startswith(first):
        assert message.startswith(("WATCHDOG=", "STATUS=", "EXTEND_TIMEOUT_USEC=")), message
    return message


def messages_so_far(receiver: socket.socket) -> list[str]:
    receiver.setblocking(False)
    found = []
    try:
        while True:
            found.append(next_message(receiver))
    except BlockingIOError:
        receiver.settimeout(PATIENCE_SECONDS)
        return found


def handed_over(*listeners: socket.socket, names: Sequence[str] = ()) -> list[str]:
    """What to put before the command. The listeners are to be passed on under their own numbers."""
    fds = ",".join(str(listener.fileno()) for listener in listeners)
    return [sys.executable, "-c", _HAND_OVER, fds, ":".join(names or ["web"] * len(listeners))]
