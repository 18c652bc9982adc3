"""The drain of one worker: everybody is told to come back elsewhere, one after the other, evenly over a window.

Run by the worker once it has stopped accepting, so that nobody new comes. Pages that lose their server at one moment
return at one moment, and what takes them in is the next to fall. So they go in random order (who connected together
does not leave together), spread over the window, and never faster than the cap, whatever the window says. Until it is
its turn a connection is served as ever. Knows no socket; clock and sleep are handed in.
"""

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable

from broker.config.schema import Drain as Settings
from broker.gateway.refusals import CAUSE_OF, close_payload, problem
from broker.native._reactor import Reactor
from broker.protocol import events
from broker.protocol.close_codes import BY_WORD

# Closes that are due sooner than this go together: 100 at the default cap, which is a millisecond's work (measured).
STEP_SECONDS = 0.05
# Places of the table of connections looked at before others have their turn: half a millisecond's work.
PAGE_PLACES = 4096

_RESTART = BY_WORD["service_restart"]
_CAUSE = CAUSE_OF[_RESTART.word]
_TURNED_AWAY = problem(503, "this server process ends", _RESTART.word)


class Pace:
    """How many of `count` may go by now: one at once, the others evenly over the window, which the cap lengthens to
    `seconds` if they would be too many.

    A plan alone would make up for a stall of the process by a burst. So it is held against an allowance that grows with
    the cap, and keeps no more than two steps of it: within any T seconds (T + 2 steps) x cap at most.
    """

    def __init__(self, count: int, window_seconds: float, most_per_second: int, now: float) -> None:
        self.seconds = max(window_seconds, count / most_per_second)
        self._count = count
        self._most_per_second = most_per_second
        self._begun = self._seen = now
        self._allowed = 1.0

    def take(self, now: float, left: int) -> int:
        """How many of the `left` go now."""
        allowed = self._allowed + (now - self._seen) * self._most_per_second
        self._allowed = min(allowed, max(1.0, 2 * STEP_SECONDS * self._most_per_second))
        self._seen = now
        passed = now - self._begun
        # A millionth more, or rounding puts the one that is due just now off by a step.
        planned = self._count if passed >= self.seconds else 1 + int(passed / self.seconds * self._count + 1e-6)
        taken = max(0, min(left, planned - (self._count - left), int(self._allowed)))
        self._allowed -= taken
        return taken

    def pause(self, now: float, left: int) -> float:
        """Until the next of the `left` is due."""
        due = self._begun + (self._count - left) / self._count * self.seconds
        return max(STEP_SECONDS, due - now)


class Drain:
    def __init__(
        self,
        reactor: Reactor,
        settings: Settings,
        hasten: asyncio.Event,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
        chance: random.Random | None = None,
    ) -> None:
        """`sleep` may return early once `hasten` is set."""
        self._reactor = reactor
        self._settings = settings
        self._hasten = hasten
        self._clock = clock
        self._sleep = sleep
        self._chance = chance or random.Random()

    async def run(self) -> None:
        """Returns when everybody was told or has gone, or when it is hastened: the others are then the caller's."""
        sessions, unfinished = await self._listed()
        settings = self._settings
        pace = Pace(len(sessions) + len(unfinished), settings.window_seconds, settings.closes_per_second, self._clock())
        while left := len(sessions) + len(unfinished):
            for _ in range(pace.take(self._clock(), left)):
                # Handshakes come last, so that as many as possible are finished by then and end as sessions.
                self._tell(self._any(sessions or unfinished))
            left = len(sessions) + len(unfinished)
            if self._hasten.is_set() or not left or not self._reactor.connections:
                return
            await self._sleep(pace.pause(self._clock(), left))

    async def _listed(self) -> tuple["array[int]", "array[int]"]:
        """Ids of sessions, and of connections that are none yet (or a refusal, which has its own Close to come)."""
        sessions, unfinished = array("Q"), array("Q")
        for first in range(0, self._reactor.places, PAGE_PLACES):
            for conn in self._reactor.ids(first, PAGE_PLACES):
                (sessions if self._reactor.state(conn) == "open" else unfinished).append(conn)
            await asyncio.sleep(0)
        return sessions, unfinished

    def _any(self, conns: "array[int]") -> int:
        """Takes one at random: a shuffle in steps, because that of a hundred thousand at once would hold the loop."""
        at = self._chance.randrange(len(conns))
        conns[at], conns[-1] = conns[-1], conns[at]
        return conns.pop()

    def _tell(self, conn: int) -> None:
        """Says goodbye, in the way that fits how far the connection has come; nothing if it has gone by itself."""
        # The window spreads returns already, as far as pages come back at once. This keeps those of one step apart,
        # and those of a window that the operator made short.
        in_ms = int(1000 * self._chance.uniform(0, self._settings.reconnect_seconds))
        payload = close_payload(_RESTART, in_ms)
        if not self._reactor.close_after(conn, events.drain(in_ms), payload, _CAUSE) and not self._reactor.turn_away(
            conn, _TURNED_AWAY, _CAUSE
        ):
            self._reactor.close(conn, payload, _CAUSE)
