"""A load with witnesses: publishers that number what they send, subscribers that check the numbers, at real processes.

Plain blocking sockets and one thread each, so that a fault of the broker cannot hide behind a client library. A message
is `<publisher> <number>`. What a witness saw is judged afterwards, by the invariants' names (I1, I2, ...).
"""

import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from typing import Any, NamedTuple

from tests.client_frames import PONG, TEXT, close, frame
from tests.process.command import Served, read_frame

JSON = "broker.json.v1"


class JsonClient:
    """A connection of the JSON format; `hello` is read."""

    def __init__(self, broker: Served, *channels: str, client: socket.socket | None = None) -> None:
        self.sock = client or broker.open(", ".join([JSON, *channels]))
        self.hello = self.event()
        assert self.hello["type"] == "hello"

    def event(self) -> dict[str, Any]:
        """The next event. Raises EOFError at an end ("lost"), or at a Close with its code and reason."""
        try:
            while (got := read_frame(self.sock))[0] == 9:
                self.sock.sendall(frame(PONG, got[1]))
        except (AssertionError, OSError) as error:
            raise EOFError("lost", "") from error
        opcode, payload = got
        if opcode == 8:
            code = int.from_bytes(payload[:2])
            with suppress(OSError):
                self.sock.sendall(close(code))
            raise EOFError(code, payload[2:].decode())
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


class Listener(threading.Thread):
    """Notes what a subscriber is told, and judges it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        # In the order of arrival: (publisher, number), or None for a gap.
        self.heard: list[tuple[str, int] | None] = []
        # What each gap said was missing.
        self.missed: list[int | None] = []
        self.ended: object = None
        self.more = threading.Condition()

    def note(self, event: dict[str, Any]) -> None:
        with self.more:
            if event["type"] == "gap":
                self.heard.append(None)
                self.missed.append(event["missed"])
            elif event["type"] == "message":
                publisher, number = event["text"].split()[:2]
                self.heard.append((publisher, int(number)))
            self.more.notify_all()

    def wait_for(self, what: tuple[str, int] | None, seconds: float = 30.0) -> None:
        """Until it has heard this (or has ended)."""
        with self.more:
            assert self.more.wait_for(lambda: what in self.heard or self.ended is not None, seconds), (
                f"never heard {what}: {self.heard[-5:]}"
            )

    def wait_until_missed(self, times: int, seconds: float = 30.0) -> None:
        with self.more:
            assert self.more.wait_for(lambda: len(self.missed) >= times, seconds), f"{self.missed}, then {self.ended}"

    def check_i1_order(self) -> None:
        """I1: per publisher first in, first out, and nothing twice."""
        last: dict[str, int] = {}
        for one in self.heard:
            if one is not None:
                assert one[1] > last.get(one[0], -1), f"{one} after {last[one[0]]}"
                last[one[0]] = one[1]

    def check_i2_no_silent_hole(self, refused: Mapping[str, Set[int]] | None = None) -> None:
        """I2: between two numbers that are heard nothing is missing, but where a gap was told in between, or where the
        publisher was told that it may be.
        """
        last: dict[str, int] = {}
        excused: dict[str, bool] = defaultdict(bool)
        for one in self.heard:
            if one is None:
                excused = defaultdict(lambda: True)
                continue
            publisher, number = one
            if publisher in last and not excused[publisher]:
                missing = set(range(last[publisher] + 1, number)) - (refused or {}).get(publisher, set())
                assert not missing, f"{publisher}: {number} after {last[publisher]}, and no gap"
            last[publisher] = number
            excused[publisher] = False


class Witness(Listener):
    """A subscriber that stays as long as it can."""

    def __init__(self, broker: Served, channel: str, client: socket.socket | None = None) -> None:
        super().__init__()
        self.client = JsonClient(broker, channel, client=client)
        self.start()

    def run(self) -> None:
        try:
            while True:
                self.note(self.client.event())
        except EOFError as end:
            with self.more:
                self.ended = end.args[0]
                self.more.notify_all()

    def close(self) -> None:
        with suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_RDWR)
        self.join(30)
        self.client.close()


class End(NamedTuple):
    """How a connection ended: a code, or "lost"; the reason of its Close; when."""

    code: object
    reason: str
    at: float

    @property
    def in_ms(self) -> int | None:
        """How long its client was told to wait."""
        found = re.search(r"in_ms=(\d+)", self.reason)
        return int(found[1]) if found else None


class Returns:
    """How a client comes back: as long after the end as that told it, then again and again for a while."""

    def __init__(self, broker: Served) -> None:
        self.broker = broker
        self.enough = threading.Event()
        self.ends: list[End] = []
        # Attempts that did not lead to a session.
        self.refused: list[str] = []

    def after(self, error: EOFError | OSError, *channels: str, seconds: float = 30.0) -> JsonClient | None:
        """None: it need not, or did not."""
        if self.enough.is_set():
            return None
        code, reason = error.args if isinstance(error, EOFError) else ("lost", "")
        self.ends.append(End(code, reason, time.monotonic()))
        self.enough.wait((self.ends[-1].in_ms or 0) / 1000)
        until = time.monotonic() + seconds
        while not self.enough.is_set() and time.monotonic() < until:
            try:
                return JsonClient(self.broker, *channels)
            except (AssertionError, EOFError, OSError) as failed:
                self.refused.append(repr(failed))
                self.enough.wait(0.05)  # its back-off
        return None


class Reader(Listener):
    """A subscriber of a channel with history that comes back with its position, as a page does."""

    def __init__(self, broker: Served, channel: str, client: socket.socket | None = None) -> None:
        super().__init__()
        self.channel = channel
        self.returns = Returns(broker)
        self.recovered: list[bool] = []
        self.client = JsonClient(broker, channel, client=client)
        self.position = self.client.hello["channels"][0]["position"]
        self.start()

    def run(self) -> None:
        while not self.returns.enough.is_set():
            try:
                event = self.client.event()
            except EOFError as error:
                self.client.close()
                back = self.returns.after(error, f"{self.channel}|since.{self.position}")
                if back is None:
                    break
                self._resume(back)
            else:
                self.position = event.get("position", self.position)
                self.note(event)
        with self.more:
            self.ended = "stopped"
            self.more.notify_all()

    def _resume(self, back: JsonClient) -> None:
        self.client = back
        (entry,) = back.hello["channels"]
        self.position = entry["position"]
        with self.more:
            self.recovered.append(entry["recovered"])
            if not entry["recovered"]:
                self.heard.append(None)

    def close(self) -> None:
        self.returns.enough.set()
        with suppress(OSError):
            self.client.sock.shutdown(socket.SHUT_RDWR)
        self.join(30)
        self.client.close()

    def check_i2_nothing_missing(self, publishers: "Iterable[Publisher]") -> None:
        """I2 with history: everything acknowledged from the first that it heard on, each once, and no gap."""
        assert None not in self.heard, f"a gap, or not recovered: {self.recovered}"
        for publisher in publishers:
            numbers = [number for name, number in filter(None, self.heard) if name == publisher.called]
            assert numbers == list(range(numbers[0], publisher.acked[-1] + 1))


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


class FaithfulPublisher(Publisher):
    """Comes back, and publishes again under the same id what was not acknowledged: so each arrives exactly once."""

    def __init__(self, broker: Served, channel: str, name: str, pause_seconds: float = 0.0) -> None:
        self.returns = Returns(broker)
        self.pause_seconds = pause_seconds  # between two: how heavy the load is
        super().__init__(broker, channel, name)

    def run(self) -> None:
        while not self._enough.wait(self.pause_seconds):
            text = f"{self.called} {self.number}"
            try:
                answer = self.client.ask(
                    type="publish", channel=self.channel, text=text, message_id=text.replace(" ", "-")
                )
            except (EOFError, OSError) as error:
                self.client.close()
                back = self.returns.after(error)
                if back is None:
                    break
                self.client = back
                continue
            with self._more:
                if answer["type"] == "ack":
                    self.acked.append(self.number)
                    self.number += 1
                else:
                    self.refused.append((self.number, answer["code"]))
                self._more.notify_all()
        with self._more:
            self.ended = "stopped"
            self._more.notify_all()

    def stop(self) -> int:
        """After the next acknowledgement: what was under way is not left to be guessed."""
        if self.is_alive():
            self.has_acked_more(1)
        return super().stop()
