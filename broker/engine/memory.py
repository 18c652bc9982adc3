"""The engine of a single worker: the order of calls is the order.

One event loop calls it, so a publication is sequenced by being next, and delivered before `publish` returns. There is
nothing to wait for and nothing that can fail but memory. The loop is also the clock of presence.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from broker.config.schema import Limits
from broker.engine.base import EngineError, HistoryRule, Joined, Member, Present, Publication, Receipt, Sink
from broker.engine.presence import Presence

_NOTHING_KEPT = Joined()
# Everybody came through the one worker that there is.
_HERE = "here"


class Alarm(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What an event loop has; tests hand in one that stands still."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Alarm: ...


class MemoryEngine:
    """`limits` None: the defaults; `clock` None: the running loop."""

    direct = True

    def __init__(self, sink: Sink, limits: Limits | None = None, clock: Clock | None = None) -> None:
        self._sink = sink
        self._presence = Presence(limits or Limits())
        self._clock = clock
        self._alarm: tuple[float, Alarm] | None = None

    def publish(self, publication: Publication) -> Receipt:
        try:
            return Receipt(self._sink.deliver(publication))
        except MemoryError:
            raise EngineError("engine_unavailable") from None

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        return _NOTHING_KEPT

    def leave(self, channel: bytes) -> None:
        """Nobody else knows of the channel."""

    def enter(self, channel: bytes, member: Member) -> None:
        clock = self._time()
        self._presence.enter(channel, member, _HERE, clock.time())
        self._wind(clock)

    def exit(self, channel: bytes, session: str) -> None:
        clock = self._time()
        self._presence.exit(channel, session, _HERE, clock.time())
        self._wind(clock)

    def presence(self, channel: bytes) -> Present:
        return self._presence.present(channel)

    def _time(self) -> Clock:
        if self._clock is None:
            self._clock = asyncio.get_running_loop()
        return self._clock

    def _wind(self, clock: Clock) -> None:
        """Makes sure that the alarm rings no later than something is due."""
        due = self._presence.next_due()
        if due is None or (self._alarm is not None and self._alarm[0] <= due):
            return
        if self._alarm is not None:
            self._alarm[1].cancel()
        self._alarm = (due, clock.call_later(max(0.0, due - clock.time()), self._ring))

    def _ring(self) -> None:
        self._alarm = None
        clock = self._time()
        try:
            for channel, event in self._presence.run(clock.time()):
                self._sink.presence(channel, event)
        finally:  # whatever one event comes to, the clock goes on
            self._wind(clock)
