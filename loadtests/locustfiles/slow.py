"""Slow consumers: after a third of the time `--slow-share` of the users stop reading; the others must not notice.

Half of the channels cut who does not read (4208 too_slow, or a reset; it comes back), half drop what is old and say how
much. The latency of those who read is "delivery" until then and "delivery beside slow readers" afterwards. A stopped
reader stands still until its queue in the broker has overflowed, reads on, and accounts for every message as all do.
"""

import time
from collections.abc import Sequence
from typing import Any

import gevent
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner

from loadtests.locustfiles.conductor import conductor
from loadtests.locustfiles.names import CLOSED, DELIVERY_BESIDE, DELIVERY_SLOW, GAP, TOLD
from loadtests.locustfiles.options import numbered, options_of
from loadtests.locustfiles.shapes import Stall
from loadtests.locustfiles.users import BackEnd, JsonPage, Page
from loadtests.locustfiles.websocket import Ended, WebSocket

# What the kernel holds for one that stopped. The broker's queue (256 KiB, broker.toml) is full after 60 messages more.
RECEIVE_BUFFER_BYTES = 16_384
MESSAGE_BYTES = 4096
# All is read again before the run ends.
STANDS = 2
TOO_SLOW = "4208 too_slow"
RESET = "1006 while it stood still"


def channels_of(user: Page | BackEnd) -> list[str]:
    half = max(1, options_of(user).channels // 2)
    return numbered("lossy", half) + numbered("strict", half)


class Steady(Page):
    """Reads as fast as it can."""

    def channels(self) -> Sequence[str]:
        names = channels_of(self)
        return [names[self.number % len(names)]]

    def delivery_name(self) -> str:
        return DELIVERY_BESIDE if self.generator.phase == "stall" else super().delivery_name()


class Stopping(JsonPage):
    """Reads until it is asked to stall; then it stands still for a sixth of the run, reads on as long, and again."""

    expected_closes = frozenset({"too_slow", "too_slow_again"})
    receive_buffer = RECEIVE_BUFFER_BYTES

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.stands_left = STANDS
        self.stands_at = 0.0

    def channels(self) -> Sequence[str]:
        names = channels_of(self)
        return [names[self.number % len(names)]]

    def delivery_name(self) -> str:
        return DELIVERY_SLOW

    def step(self, socket: WebSocket) -> None:
        if self.generator.phase == "stall" and self.stands_left and time.monotonic() >= self.stands_at:
            pause = options_of(self).hold / 6
            self.stands_left -= 1
            gevent.sleep(pause)
            self.stands_at = time.monotonic() + pause
        super().step(socket)

    def ended(self, end: Ended) -> None:
        """The broker's Close waits for a few seconds behind what was not read; then the connection is reset."""
        if self.stands_left < STANDS and end.code == 1006:
            self.generator.measured(CLOSED, RESET, None)
        else:
            super().ended(end)


class Desk(BackEnd):
    payload_bytes = MESSAGE_BYTES

    def channels(self) -> Sequence[str]:
        return channels_of(self)


class Shape(Stall):
    pass


def prepare(environment: Environment, **_: Any) -> None:
    """On the master, which reads the weights when it begins to start users."""
    if not isinstance(environment.runner, MasterRunner):
        return
    share = conductor().options.slow_share
    Steady.weight, Stopping.weight = 1 - share, share
    conductor().checks.append(check)


def check() -> list[str]:
    cut = conductor().count(CLOSED, TOO_SLOW) + conductor().count(CLOSED, RESET)
    if cut and conductor().count(TOLD, GAP):
        return []
    return ["no queue overflowed on both kinds of channels: take a larger --rate, --hold or --users"]


events.init.add_listener(prepare)
