"""The kinds of users that scenarios are made of: a page with one socket in either format, and a back end.

A user is one socket. Its task is one life of that socket, from connecting to its end; `wait_time` is how long it stays
away before it comes back. A scenario subclasses one of these (docs/load-testing.md shows how).
"""

import json
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import gevent
from locust import FastHttpUser, User, between, task
from locust.env import Environment

from loadtests.locustfiles.generator import generator
from loadtests.locustfiles.ledger import Author, Checker, read_stamp
from loadtests.locustfiles.names import (
    BACK_AGAIN,
    CLOSED,
    CONNECT,
    DELIVERY,
    DELIVERY_EARLY,
    DELIVERY_MISSED,
    GENERATOR,
    HANDSHAKE,
    LATE,
    LOSS,
    NOT_RECOVERED,
    PUBLISH_ACK,
    WEBSOCKET,
)
from loadtests.locustfiles.websocket import Ended, Refused, WebSocket

API_KEY = "LOADTEST_API_KEY"
JSON_FORMAT = "broker.json.v1"


class Page(User):
    """One socket of the raw format, which hears one channel. Subclasses say which: `channels`."""

    abstract = True
    # As a browser client: at random within two seconds, so that a storm is no single blow.
    wait_time = between(0, 2)
    # Words of closes (docs/protocol.md section 4) that this scenario provokes; every other one is a failure.
    expected_closes: frozenset[str] = frozenset()
    resumes = False  # comes back with the position of each channel, and is to miss nothing
    receive_buffer: int | None = None

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.generator = generator()
        self.number = self.generator.index(type(self).__name__)
        self.checkers = {channel: self.generator.checker(channel) for channel in self.channels()}
        self.socket: WebSocket | None = None
        self.cut_at: float | None = None  # since when it is away because the scenario cut it
        self.there_ns = 0  # since when it is subscribed; what is older and still comes is history

    def channels(self) -> Sequence[str]:
        """What it hears. (No abstract method: locust's User has a metaclass of its own.)"""
        raise NotImplementedError

    def offer(self) -> list[str]:
        return [f"{channel}|recv" for channel in self.checkers]

    def on_start(self) -> None:
        self.generator.users.add(self)
        gevent.sleep(random.random())  # locust starts those of one second all at its beginning

    def on_stop(self) -> None:
        self.generator.users.discard(self)

    def act(self, what: str) -> None:
        """Something is asked of all users; this one knows "cut": its connection breaks."""
        if what == "cut" and self.socket is not None:
            self.cut_at = time.perf_counter()
            self.socket.cut()

    @task
    def live(self) -> None:
        """One connection, from beginning to end."""
        assert self.environment.host, "locust's --host says where the broker is"
        socket = WebSocket(self.environment.host, self.offer(), self.receive_buffer)
        try:
            socket.open()
        except (OSError, Refused, Ended) as error:
            self.generator.failed(WEBSOCKET, HANDSHAKE, f"{type(error).__name__}: {error}", socket.handshake_seconds)
            socket.cut()
            return
        self.generator.measured(WEBSOCKET, CONNECT, socket.connect_seconds)
        self.generator.measured(WEBSOCKET, HANDSHAKE, socket.handshake_seconds)
        self.socket = socket
        self.generator.open_sockets += 1
        try:
            self.opened()
            while True:
                self.step(socket)
        except Ended as end:
            self.ended(end)
        finally:
            self.generator.open_sockets -= 1
            self.socket = None
            socket.close()
            self.left()

    def opened(self) -> None:
        """The 101 is there: raw subscriptions are in force."""
        for checker in self.checkers.values():
            checker.begin(time.time_ns())
        self.is_back()

    def left(self) -> None:
        """Its connection is over, whoever ended it."""
        if not self.resumes:
            for checker in self.checkers.values():
                checker.leave()

    def is_back(self) -> None:
        self.there_ns = time.time_ns()
        if self.cut_at is not None:
            self.generator.measured(WEBSOCKET, BACK_AGAIN, time.perf_counter() - self.cut_at)
            self.cut_at = None

    def step(self, socket: WebSocket) -> None:
        """Waits for what comes next, and takes it."""
        self.take(socket.receive())

    def take(self, texts: list[str]) -> None:
        """Messages that came together."""
        now_ns = time.time_ns()
        (checker,) = self.checkers.values()
        for text in texts:
            self.hear(checker, text, now_ns)

    def hear(self, checker: Checker, payload: str, now_ns: int) -> None:
        stamp = read_stamp(payload)
        name = DELIVERY_MISSED if self.resumes and stamp.sent_ns < self.there_ns else self.delivery_name()
        self.generator.heard(checker, stamp, len(payload), now_ns, name)

    def delivery_name(self) -> str:
        """Starting users takes the generator's time: what comes meanwhile has a row of its own."""
        return DELIVERY if self.generator.phase else DELIVERY_EARLY

    def ended(self, end: Ended) -> None:
        """Not by us. What a scenario cut itself has no row here."""
        if self.cut_at is not None:
            return
        name = f"{end.code} {end.word}".rstrip()
        if end.word in self.expected_closes:
            self.generator.measured(CLOSED, name, None)
        else:
            self.generator.failed(CLOSED, name, "a connection that nothing was wrong with")


class JsonPage(Page):
    """One socket of `broker.json.v1`, with any number of channels. It is told of gaps, may publish, and may resume."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.positions: dict[str, str] = {}
        self._asked: dict[int, tuple[Author, float]] = {}
        self._last_id = 0

    def offer(self) -> list[str]:
        return [JSON_FORMAT, *map(self._token, self.checkers)]

    def _token(self, channel: str) -> str:
        position = self.positions.get(channel) if self.resumes else None
        return f"{channel}|since.{position}" if position else channel

    def opened(self) -> None:
        """Nothing yet: `hello` says what it is subscribed to."""

    def take(self, texts: list[str]) -> None:
        now_ns = time.time_ns()
        for text in texts:
            event = json.loads(text)
            kind = event["type"]
            if kind == "message":
                checker = self.checkers[event["channel"]]
                if "position" in event:
                    self.positions[checker.channel] = event["position"]
                self.hear(checker, event["text"], now_ns)
            elif kind == "gap":
                self.generator.told(self.checkers[event["channel"]], event["missed"])
            elif kind == "hello":
                self._subscribed(event["channels"])
            elif kind == "ack":
                self._acknowledged(event["id"])
            elif kind == "error":
                self._refused(event)

    def _subscribed(self, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            checker = self.checkers[entry["channel"]]
            if "error" in entry:
                self.generator.failed(WEBSOCKET, HANDSHAKE, f"channel refused: {entry['error']['code']}")
                continue
            resuming = self.resumes and checker.channel in self.positions
            if "position" in entry:
                self.positions.setdefault(checker.channel, entry["position"])
            if resuming and entry.get("recovered"):
                continue  # the checker goes on where it was
            if resuming:
                self.positions[checker.channel] = entry["position"]
                self.generator.failed(LOSS, NOT_RECOVERED, "resumed within the history, and it was not complete")
            checker.begin(time.time_ns())
        self.is_back()

    def publish(self, author: Author, channel: str, size: int) -> None:
        """Its next message; the ack comes among the events."""
        assert self.socket is not None
        self._last_id += 1
        payload = author.stamp(time.time_ns()).payload(size)
        self.generator.busy_authors += 1
        self._asked[self._last_id] = author, time.perf_counter()
        command = {"type": "publish", "channel": channel, "text": payload, "id": self._last_id}
        self.socket.send(json.dumps(command))

    def waits_for_ack(self) -> bool:
        return bool(self._asked)

    def _acknowledged(self, command: int) -> None:
        author, asked = self._asked.pop(command)
        self.generator.busy_authors -= 1
        author.published()
        self.generator.measured(WEBSOCKET, PUBLISH_ACK, time.perf_counter() - asked)

    def _refused(self, event: dict[str, Any]) -> None:
        asked = self._asked.pop(event.get("id", 0), None)
        if asked is not None:
            self.generator.busy_authors -= 1
            asked[0].unknown()
        self.generator.failed(WEBSOCKET, PUBLISH_ACK, f"error: {event['code']}")

    def left(self) -> None:
        """Nobody knows whether what was not acknowledged is published."""
        for author, _ in self._asked.values():
            self.generator.busy_authors -= 1
            author.unknown()
        self._asked.clear()
        super().left()


class BackEnd(FastHttpUser):
    """Publishes over the HTTP API, in each of its channels `rate` messages a second, at times that are spread evenly.

    What is due is published in one request, and a request at a time is under way. How late that made it is a statistic
    of its own; delivery counts from the moment it was sent.
    """

    abstract = True
    fixed_count = 1
    payload_bytes = 120

    def channels(self) -> Sequence[str]:
        raise NotImplementedError

    def rate(self) -> float:
        options = self.environment.parsed_options
        assert options is not None
        return float(options.rate)

    @task
    def publish(self) -> None:
        shared = generator()
        options = self.environment.parsed_options
        assert options is not None
        url = f"{options.api_url}/v1/publish"
        headers = {"Authorization": f"Bearer {os.environ[API_KEY]}", "Content-Type": "application/json"}
        authors = [(channel, shared.author(channel)) for channel in self.channels()]
        pause = 1 / (self.rate() * len(authors))
        due, turn = time.perf_counter(), 0
        while shared.publishing:
            late = time.perf_counter() - due
            if late < 0:
                gevent.sleep(-late)
                continue
            now = 1 + min(int(late / pause), len(authors) - 1)
            shared.measured(GENERATOR, LATE, late)
            self._post(url, headers, [authors[(turn + index) % len(authors)] for index in range(now)])
            turn, due = turn + now, due + now * pause
        while True:  # it stays a user until the run ends
            gevent.sleep(1)

    def _post(self, url: str, headers: dict[str, str], batch: list[tuple[str, Author]]) -> None:
        shared = generator()
        messages = [
            {"channel": channel, "text": author.stamp(time.time_ns()).payload(self.payload_bytes)}
            for channel, author in batch
        ]
        shared.busy_authors += 1
        try:
            with self.client.post(url, json=messages, headers=headers, name="publish", catch_response=True) as response:
                results = response.json()["results"] if response.status_code == 200 else [{"error": {}}] * len(batch)
                for (_, author), result in zip(batch, results, strict=True):
                    if "error" in result:
                        author.unknown()
                    else:
                        author.published()
                refused = [result["error"].get("code", "no result") for result in results if "error" in result]
                if refused:
                    response.failure(f"status {response.status_code}: {refused[0]}")
        finally:
            shared.busy_authors -= 1
