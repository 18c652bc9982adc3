"""A load with witnesses: publishers that number what they send, subscribers that check the numbers, at real processes.

Plain blocking sockets and one thread each, so that a fault of the broker cannot hide behind a client library. A message
is `<publisher> <number>`. What a witness saw is judged afterwards, by the invariants' names (I1, I2, ...).
"""

import json
import socket
import threading
from collections import defaultdict
from contextlib import suppress
from typing import Any

from tests.client_frames import TEXT, frame
from tests.process.command import Served, read_frame

JSON = "broker.json.v1"


class JsonClient:
    """A connection of the JSON format; `hello` is read."""

    def __init__(self, broker: Served, *channels: str, client: socket.socket | None = None) -> None:
        self.sock = client or broker.open(", ".join([JSON, *channels]))
        assert self.event()["type"] == "hello"

    def event(self) -> dict[str, Any]:
        """The next event. Raises EOFError at a Close or an end, with the code if there is one."""
        try:
            opcode, payload = read_frame(self.sock)
        except (AssertionError, OSError) as error:
            raise EOFError("lost") from error
        if opcode == 8:
            raise EOFError(int.from_bytes(payload[:2]))
        event = json.loads(payload)
        assert isinstance(event, dict)
        return event

    def say(self, **members: object) -> None:
        self.sock.sendall(frame(TEXT, json.dumps(members).encode()))

    def ask(self, **members: object) -> dict[str, Any]:
        """Says it and waits for its answer; anything else that comes meanwhile is not wanted here."""
        self.say(id=1, **members)
        while True:
            event = self.event()
            if event.get("id") == 1:
                return event

    def close(self) -> None:
        self.sock.close()


class Witness(threading.Thread):
    """A subscriber that notes all it is told: messages, gaps, and how it ended."""

    def __init__(self, broker: Served, channel: str, client: socket.socket | None = None) -> None:
        super().__init__(daemon=True)
        self.client = JsonClient(broker, channel, client=client)
        # In the order of arrival: (publisher, number), or None for a gap.
        self.heard: list[tuple[str, int] | None] = []
        self.ended: object = None
        self._until: tuple[str, int] | None = None
        self._more = threading.Condition()
        self.start()

    def run(self) -> None:
        with suppress(EOFError):
            while True:
                try:
                    event = self.client.event()
                except EOFError as end:
                    self.ended = end.args[0]
                    raise
                finally:
                    with self._more:
                        self._more.notify_all()
                with self._more:
                    if event["type"] == "gap":
                        self.heard.append(None)
                    elif event["type"] == "message":
                        publisher, number = event["text"].split()[:2]
                        self.heard.append((publisher, int(number)))
        with self._more:
            self._more.notify_all()

    def wait_for(self, what: tuple[str, int] | None, seconds: float = 30.0) -> None:
        """Until it has heard this (or has ended)."""
        with self._more:
            assert self._more.wait_for(lambda: what in self.heard or self.ended is not None, seconds), (
                f"never heard {what}: {self.heard[-5:]}"
            )

    def close(self) -> None:
        with suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_RDWR)
        self.join(30)
        self.client.close()

    def check_i1_order(self) -> None:
        """I1: per publisher first in, first out, and nothing twice."""
        last: dict[str, int] = {}
        for one in self.heard:
            if one is not None:
                assert one[1] > last.get(one[0], -1), f"{one} after {last[one[0]]}"
                last[one[0]] = one[1]

    def check_i2_no_silent_hole(self) -> None:
        """I2: between two numbers that are heard nothing is missing, but where a gap was told in between."""
        last: dict[str, int] = {}
        excused: dict[str, bool] = defaultdict(bool)
        for one in self.heard:
            if one is None:
                excused = defaultdict(lambda: True)
                continue
            publisher, number = one
            if publisher in last and not excused[publisher]:
                assert number == last[publisher] + 1, f"{publisher}: {number} after {last[publisher]}, and no gap"
            last[publisher] = number
            excused[publisher] = False


class Publisher(threading.Thread):
    """Publishes numbered messages, one after the other, each after the answer to the one before."""

    def __init__(self, broker: Served, channel: str, name: str, client: socket.socket | None = None) -> None:
        super().__init__(daemon=True)
        self.client = JsonClient(broker, client=client)
        self.channel = channel
        self.called = name
        self.number = 0
        self.acked: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.ended: object = None
        self._enough = threading.Event()
        self._more = threading.Condition()
        self.start()

    def run(self) -> None:
        try:
            while not self._enough.is_set():
                answer = self.client.ask(type="publish", channel=self.channel, text=f"{self.called} {self.number}")
                with self._more:
                    if answer["type"] == "ack":
                        self.acked.append(self.number)
                    else:
                        self.refused.append((self.number, answer["code"]))
                    self.number += 1
                    self._more.notify_all()
        except (EOFError, OSError) as end:
            self.ended = end.args[0] if end.args else "lost"
        with self._more:
            self._more.notify_all()

    def has_acked_more(self, count: int, seconds: float = 30.0) -> None:
        """Waits until so many more are acknowledged."""
        with self._more:
            wanted = len(self.acked) + count
            assert self._more.wait_for(lambda: len(self.acked) >= wanted or self.ended is not None, seconds)
            assert len(self.acked) >= wanted, f"it ended: {self.ended}"

    def stop(self) -> int:
        """Stops; the number of the last message that was acknowledged."""
        self._enough.set()
        self.join(30)
        self.client.close()
        return self.acked[-1]
