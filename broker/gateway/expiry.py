"""When identities end: warns, then closes; and ends connections that never said who they are.

One tick a second for the whole worker. A connection stands in one bucket of its second, as nothing but its id, and is
looked at again when that second comes: a timer each would be 200 bytes and an object of the collector's (measured).
Whoever is gone by then is found gone.
"""

import heapq
import random
import time
from collections.abc import Callable

from broker.config.schema import Auth
from broker.gateway.refusals import CAUSE_OF, close_payload
from broker.gateway.session import Session
from broker.native._reactor import Reactor
from broker.protocol import events
from broker.protocol.close_codes import BY_WORD

TICK_SECONDS = 1.0
# Nobody is put further ahead: what ended before its time leaves an id behind, and tokens may last for years.
HORIZON_SECONDS = 300


class Expiry:
    """`clock` is unix time: tokens say when they end in it."""

    def __init__(
        self,
        reactor: Reactor,
        auth: Auth,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        self._reactor = reactor
        self.auth = auth
        self.clock = clock
        self._chance = chance or random.Random()
        self._buckets: dict[int, list[int]] = {}
        self._seconds: list[int] = []

    def watch(self, conn: int, session: Session) -> None:
        """After a session has begun, and whenever its identity has changed."""
        expires = session.identity.expires
        if expires is not None:
            self._put(conn, session, self._next_look(session, expires))
        elif session.identity.user is None and session.json and self.auth.keys:
            self._put(conn, session, self.clock() + self.auth.auth_seconds)

    def _next_look(self, session: Session, expires: float) -> float:
        return expires - self.auth.expiring_seconds if session.json and not session.warned else expires

    def _put(self, conn: int, session: Session, at: float) -> None:
        # Up, not down: never a look too soon that would only have to be repeated.
        now = self.clock()
        second = min(max(int(at) + 1, int(now) + 1), int(now) + HORIZON_SECONDS)
        if session.looked_at and session.looked_at <= second:
            return  # it stands in an earlier bucket already, and will be put again from there
        session.looked_at = second
        bucket = self._buckets.get(second)
        if bucket is None:
            self._buckets[second] = [conn]
            heapq.heappush(self._seconds, second)
        else:
            bucket.append(conn)

    def tick(self) -> None:
        """Looks at everybody whose second has come."""
        now = self.clock()
        while self._seconds and self._seconds[0] <= now:
            second = heapq.heappop(self._seconds)
            for conn in self._buckets.pop(second):
                session = self._reactor.session(conn)
                if isinstance(session, Session) and session.looked_at == second:
                    session.looked_at = 0
                    self._look(conn, session, now)

    def _look(self, conn: int, session: Session, now: float) -> None:
        expires = session.identity.expires
        if expires is None:
            if session.identity.user is None and not self._reactor.subscriptions(conn):
                self._close(conn, "not_authenticated", 0.0)
        elif now >= expires:
            self._close(conn, "token_expired", self._chance.uniform(0, self.auth.expiry_spread_seconds))
        else:
            if session.json and not session.warned and now >= expires - self.auth.expiring_seconds:
                session.warned = True
                self._reactor.send(conn, events.expiring(int((expires - now) * 1000)))
            self._put(conn, session, self._next_look(session, expires))

    def _close(self, conn: int, word: str, spread_seconds: float) -> None:
        self._reactor.close_later(conn, close_payload(BY_WORD[word]), CAUSE_OF[word], spread_seconds)

    @property
    def waiting(self) -> int:
        """Ids in all buckets."""
        return sum(len(bucket) for bucket in self._buckets.values())
