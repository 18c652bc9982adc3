"""A run that has to fail: raw readers stop on a channel that drops what is old, and a raw reader is told nothing.

Messages really are missing and nothing in the broker says it. It shows that a loss is found, counted and ends with
status 1.
"""

from collections.abc import Sequence

import gevent

from loadtests.locustfiles.options import numbered, options_of
from loadtests.locustfiles.shapes import Stall
from loadtests.locustfiles.slow import MESSAGE_BYTES, RECEIVE_BUFFER_BYTES
from loadtests.locustfiles.users import BackEnd, Page
from loadtests.locustfiles.websocket import WebSocket


class Deaf(Page):
    receive_buffer = RECEIVE_BUFFER_BYTES
    stood = False

    def channels(self) -> Sequence[str]:
        return [f"lossy.{self.number % options_of(self).channels}"]

    def step(self, socket: WebSocket) -> None:
        if self.generator.phase == "stall" and not self.stood:
            self.stood = True
            gevent.sleep(options_of(self).hold / 3)
        super().step(socket)


class Desk(BackEnd):
    payload_bytes = MESSAGE_BYTES

    def channels(self) -> Sequence[str]:
        return numbered("lossy", options_of(self).channels)


class Shape(Stall):
    pass
