"""Scenario `http_publish`: what a message costs that a back end publishes over HTTP.

One keep-alive connection, one request after the other: single messages, and batches of 100, here, and single messages
at the publisher endpoint of nchan, which has no batch. First nobody listens, then one WebSocket subscriber at each that
has to get every byte. All ways take their turns within a round, so that what else the machine does meets all of them;
what is compared is the CPU of the servers (/proc/PID/stat, all their processes), the rows are medians over the rounds.
"""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.nchan import PUBLISH_PATH, SUBSCRIBE_PATH, Nchan
from loadtests.report import Progress, Result
from loadtests.server import BenchError, Server, wait_until
from loadtests.statistics import median, paired_interval, paired_ratio
from loadtests.wire import HEAD_END, Address, server_frame, upgrade

NAME = "http_publish"
TITLE = "publishes over HTTP, one by one and in batches, beside nchan"
# 100 000 messages for each second of one worker's CPU.
MOST_BATCH_MICROSECONDS = 10.0
BATCH = 100
PAYLOAD = b"a message of a back end: who did what and where, one line as long as such lines are".ljust(120, b".")
ARRIVAL_SECONDS = 20.0
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Size:
    """`singles`: messages one by one in a round; `batches`: requests of BATCH messages. `judged`: whether a round takes
    long enough for a clock of 10 ms.
    """

    singles: int = 10_000
    batches: int = 1000
    rounds: int = 9
    judged: bool = True


QUICK = Size(singles=200, batches=5, rounds=2, judged=False)


def scaled(factor: float) -> Size:
    return Size(singles=max(200, int(10_000 * factor)), batches=max(10, int(1000 * factor)))


class Poster:
    """One keep-alive connection of a back end."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection(address, PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, request: bytes) -> bytes:
        """The body of the answer. Raises BenchError if that is no success."""
        self._socket.sendall(request)
        answer = b""
        while not (parts := answer.partition(HEAD_END))[1]:
            answer += self._more()
        head, _, body = parts
        if head[9:10] != b"2":
            raise BenchError(f"a publish was answered {head.splitlines()[0]!r}")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
        while len(body) < length:
            body += self._more()
        return body

    def _more(self) -> bytes:
        data = self._socket.recv(65_536)
        if not data:
            raise BenchError("the server ended the connection of the back end")
        return data

    def close(self) -> None:
        self._socket.close()


class Listener:
    """One raw subscriber, which only counts bytes."""

    def __init__(self, address: Address, request: bytes) -> None:
        self._socket = socket.create_connection(address, PATIENCE_SECONDS)
        self._socket.sendall(request)
        head = b""
        while not head.endswith(HEAD_END):
            head += self._socket.recv(1)
            if not head.startswith(b"HTTP/1.1 101 "[: len(head)]):
                raise BenchError(f"a subscriber was answered {head!r}")
        self._socket.setblocking(False)
        self.got = 0

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self._socket.recv(1 << 18):
                self.got += len(data)

    def has(self, size: int) -> bool:
        self.drain()
        return self.got >= size

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Way:
    """`request` publishes `messages` of them; `listen` makes a subscriber of it; `cpu` reads its server's clock."""

    name: str
    address: Address
    request: bytes
    messages: int
    requests: int
    listen: Callable[[], Listener]
    cpu: Callable[[], float]


def request(target: str, address: Address, body: bytes, content_type: str, *headers: str) -> bytes:
    host, port = address
    lines = [f"POST {target} HTTP/1.1", f"Host: {host}:{port}", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def own_ways(server: Server, size: Size) -> list[Way]:
    key = f"Authorization: Bearer {server.api_key}"
    batch = json.dumps([{"channel": "news", "text": PAYLOAD.decode()}] * BATCH).encode()
    single = request("/v1/channels/news/messages", server.api, PAYLOAD, "text/plain", key)
    batched = request("/v1/publish", server.api, batch, "application/json", key)

    def listen() -> Listener:
        return Listener(server.address, upgrade(server.address, "news|recv"))

    return [
        Way("one by one", server.api, single, 1, size.singles, listen, server.cpu_seconds),
        Way(f"in batches of {BATCH}", server.api, batched, BATCH, size.batches, listen, server.cpu_seconds),
    ]


def way_of_nchan(nchan: Nchan, size: Size) -> Way:
    single = request(PUBLISH_PATH, nchan.address, PAYLOAD, "text/plain", "Accept: text/plain")

    def listen() -> Listener:
        # It answers no subprotocol that it does not know; without the header it sends plain payloads.
        asked = upgrade(nchan.address, "", SUBSCRIBE_PATH).replace(b"Sec-WebSocket-Protocol: \r\n", b"")
        return Listener(nchan.address, asked)

    return Way("nchan, one by one", nchan.address, single, 1, size.singles, listen, nchan.cpu_seconds)


def cost(way: Way, listening: bool, arrival_seconds: float = ARRIVAL_SECONDS) -> float:
    """CPU seconds of the server for each message. Raises BenchError if the subscriber lacks a byte, or has too much."""
    poster, listener = Poster(way.address), way.listen() if listening else None
    expected = way.requests * way.messages * len(server_frame(PAYLOAD))
    before = way.cpu()
    try:
        for _ in range(way.requests):
            poster.post(way.request)
            if listener is not None:
                listener.drain()
        if listener is not None:
            wait_until(lambda: listener.has(expected), arrival_seconds)
        used = way.cpu() - before
        if listener is not None and listener.got != expected:
            raise BenchError(f"{way.name}: the subscriber got {listener.got} of {expected} bytes")
    finally:
        poster.close()
        if listener is not None:
            listener.close()
    # The clock of /proc ticks 100 times a second: a step, and not a division by zero.
    return max(used, 0.01) / (way.requests * way.messages)


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    with Server() as server, Nchan(os.sched_getaffinity(server.pid)) as nchan:
        all_ways = [*own_ways(server, size), way_of_nchan(nchan, size)]
        costs: dict[tuple[str, bool], list[float]] = {(way.name, on): [] for on in (False, True) for way in all_ways}
        for number in range(size.rounds + 1):
            for way in all_ways if number % 2 else reversed(all_ways):
                for listening in (False, True):
                    found = cost(way, listening)
                    if number:  # the first round warms up
                        costs[way.name, listening].append(found)
            progress(f"round {number} of {size.rounds}")
        for listening, who in ((False, "nobody listens"), (True, "one subscriber")):
            for way in all_ways:
                mid = median(costs[way.name, listening])
                goal = MOST_BATCH_MICROSECONDS if way.messages > 1 and size.judged else None
                result.add(f"{who}: {way.name}, messages per CPU second", round(1 / mid), "")
                result.add(f"{who}: {way.name}, CPU per message", mid * 1e6, "us", most=goal)
            *own, theirs = all_ways
            for way in own:
                pairs = list(zip(costs[theirs.name, listening], costs[way.name, listening], strict=True))
                low, high = paired_interval(pairs)
                result.add(f"{who}: {way.name}, of what nchan's one by one does", paired_ratio(pairs), "times")
                result.add(f"{who}: {way.name}, the same, from", low, "times")
                result.add(f"{who}: {way.name}, the same, to", high, "times")
        if nchan.log():
            result.failures.append(f"nginx wrote to stderr: {nchan.log()[-500:]}")
        result.failures += server.stop()
    return result
