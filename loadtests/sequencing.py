"""Publishers whose messages are numbered across all of them: the numbers are the order in which they were acknowledged.

Plain blocking sockets. Each knows which worker serves it, and `one_at_each_worker` makes as many as there are workers.
"""

import contextlib
import re
import socket
import time

from loadtests.sequence import number_text, read_offset
from loadtests.server import BenchError, Server
from loadtests.wire import HEAD_END, Address, client_frame, close_code, upgrade

ANSWER_SECONDS = 60.0
RECEIVE_BYTES = 262_144
_ACK = re.compile(
    rb'\x81.\{"type":"ack","id":"(\d{8})"(?:,"position":"([^"]+)")?(?:,"subscriptions":\d+)?\}', re.DOTALL
)
_NOT_NOW = re.compile(
    rb'\x81.(?:..)?\{"type":"error","code":"(?:engine_unavailable|outcome_unknown)",[^}]*\}', re.DOTALL
)
_ANSWER = re.compile(rb'"type":"(?:ack|error)"')
_HELLO = re.compile(rb'\x81(?:[\x00-\x7d]|\x7e..)\{"type":"hello",.*?"heartbeat_seconds":[0-9.]+\}', re.DOTALL)


class Publisher:
    """A JSON connection that publishes to one channel and hears only its answers."""

    def __init__(self, address: Address, channel: str) -> None:
        self._channel = channel.encode()
        self.sock = socket.create_connection(address, ANSWER_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._open(address)
        except OSError:
            self.sock.close()
            raise

    def _open(self, address: Address) -> None:
        self.sock.sendall(upgrade(address, "broker.json.v1"))
        said = b""
        while not (found := _HELLO.search(said)):
            data = self.sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionRefusedError(f"not opened: {said[:60]!r}")
            said += data
        head, _, _ = said.partition(HEAD_END)
        if not head.startswith(b"HTTP/1.1 101 ") or found.end() != len(said):
            raise ConnectionRefusedError(f"not opened: {said[:400]!r}")

    def send(self, first: int, end: int, repeatable: bool = True) -> None:
        """Publishes these numbers at once. Repeatable: each has a message id, so a repetition is not published."""
        begin = b'{"type":"publish","channel":"%s",' % self._channel
        frames = []
        for number in range(first, end):
            text = number_text(number)
            message_id = b'"message_id":"%s",' % text if repeatable else b""
            frames.append(client_frame(begin + b'"text":"%s",%s"id":"%s"}' % (text, message_id, text)))
        self.sock.sendall(b"".join(frames))

    def acknowledged(self, first: int, end: int, history: bool = True) -> int:
        """Waits for the acks of these numbers, in this order and with the positions that they must have; less than
        `end`: the broker ended, or had no engine any more, before the ack of that one.
        """
        said = bytearray()
        while len(_ANSWER.findall(said)) < end - first or not said.endswith(b"}"):
            try:
                data = self.sock.recv(RECEIVE_BYTES)
            except ConnectionError:
                data = b""
            said += data
            if not data or close_code(said) is not None:
                break
        acks = _ACK.findall(said)
        numbers = [int(number) for number, _ in acks]
        if numbers != list(range(first, first + len(numbers))):
            raise BenchError(f"acks in another order than the publishes: {numbers[:20]}")
        for number, position in acks if history else []:
            if read_offset(position.decode())[1] != int(number) + 1:
                raise BenchError(f"message {int(number)} is acknowledged at position {position.decode()}")
        rest = _NOT_NOW.sub(b"", _ACK.sub(b"", said))
        if rest and close_code(rest) is None:
            raise BenchError(f"answers that are no acks: {rest[:200]!r}")
        return first + len(numbers)

    def close(self) -> None:
        self.sock.close()


def one_at_each_worker(server: Server, channel: str, workers: int, closing: contextlib.ExitStack) -> list[Publisher]:
    """Connects until each worker serves one; who accepts is the kernel's choice. All end with `closing`."""
    found: dict[int, Publisher] = {}
    deadline = time.monotonic() + ANSWER_SECONDS
    while len(found) < workers:
        if time.monotonic() > deadline:
            raise BenchError(f"{len(found)} of {workers} workers accepted within {ANSWER_SECONDS:.0f} s")
        publisher = Publisher(server.address, channel)
        closing.callback(publisher.close)
        worker = server.peers()[publisher.sock.getsockname()]
        if worker in found:
            publisher.close()
        else:
            found[worker] = publisher
    return [found[worker] for worker in sorted(found)]
