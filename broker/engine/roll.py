"""The roll: the book of presence with a clock, and somebody who is told what changes.

Kept by whoever is the engine: the memory engine of a single worker, or the engine process for all of them.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from broker.config.schema import Limits
from broker.engine.base import Member, PresenceEvent, Present
from broker.engine.presence import Owner, Presence


class Alarm(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What an event loop has; tests hand in one that stands still."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Alarm: ...


class Roll:
    """`tell` hears of joins and leaves; `clock` None: the running loop."""

    def __init__(
        self, limits: Limits, tell: Callable[[bytes, PresenceEvent], None], clock: Clock | None = None
    ) -> None:
        self._presence = Presence(limits)
        self._tell = tell
        self._clock = clock
        self._alarm: tuple[float, Alarm] | None = None

    def enter(self, channel: bytes, member: Member, owner: Owner) -> None:
        clock = self._time()
        self._presence.enter(channel, member, owner, clock.time())
        self._wind(clock)

    def exit(self, channel: bytes, session: str, owner: Owner) -> None:
        clock = self._time()
        self._presence.exit(channel, session, owner, clock.time())
        self._wind(clock)

    def owner_gone(self, owner: Owner) -> None:
        self._presence.owner_gone(owner)
        self._wind(self._time())

    def present(self, channel: bytes) -> Present:
        return self._presence.present(channel)

    @property
    def places(self) -> int:
        return self._presence.places

    def close(self) -> None:
        """Nobody is told anything any more."""
        if self._alarm is not None:
            self._alarm[1].cancel()

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
                self._tell(channel, event)
        finally:  # whatever one event comes to, the clock goes on
            self._wind(clock)
