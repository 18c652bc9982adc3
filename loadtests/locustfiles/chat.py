"""Chat: every client hears a room and speaks in it, about every `--think` seconds. Latency is from client to client.

What is said in a room goes to everybody there, the speaker too, so deliveries are the square of its members:
`--channels` says how many rooms share the users.
"""

import random
import time
from collections.abc import Sequence

from locust.env import Environment

from loadtests.locustfiles.options import options_of
from loadtests.locustfiles.shapes import Ramp
from loadtests.locustfiles.users import JsonPage
from loadtests.locustfiles.websocket import WebSocket

MESSAGE_BYTES = 100


class Member(JsonPage):
    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        (self.room,) = self.checkers
        self.author = self.generator.author(self.room)
        self.speaks_at = 0.0

    def channels(self) -> Sequence[str]:
        return [f"room.{self.number % options_of(self).channels}"]

    def opened(self) -> None:
        self._think()

    def _think(self) -> None:
        """People are independent of each other: exponential pauses."""
        self.speaks_at = time.monotonic() + random.expovariate(1 / options_of(self).think)

    def step(self, socket: WebSocket) -> None:
        pause = self.speaks_at - time.monotonic()
        if pause > 0:
            self.take(socket.receive(pause))
            return
        self._think()
        if self.generator.publishing and not self.waits_for_ack():
            self.publish(self.author, self.room, MESSAGE_BYTES)


class Shape(Ramp):
    pass
