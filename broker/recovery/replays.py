"""Subscriptions that are behind: who reads which ring from where, a page at a time.

The node starts a replay for each subscription that does not begin at the head, and the reactor reports those that fell
behind (policy catch_up) and those that have room again. A run gives each replay one page in turn, for at most 2 ms, so
that a crowd that comes back at once shares the loop with everybody else, and frames are encoded once for all who are
at the same place. A replay that has reached the head turns live in the call that found nothing left: no hole, and no
duplicate.
"""

from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from broker.engine.base import HistoryRule, Publication, Retained
from broker.engine.ring import Ring, position_of
from broker.native._reactor import Reactor
from broker.native._replay import FULL, GONE

# One page: as many messages as are queued in about 0.1 ms, and no more bytes than a reader takes in one write.
PAGE_MESSAGES = 64
PAGE_BYTES = 16_384
# A run ends after this long, as a flush does.
RUN_SECONDS = 0.002


class Shelf(msgspec.Struct, gc=False):
    """A channel that can be read: its ring, and what that may hold. The engine's ring, or one of our `own`."""

    ring: Retained
    rule: HistoryRule
    own: Ring | None = None


class Replay(msgspec.Struct, gc=False, eq=False):
    conn: int
    name: bytes
    epoch: str
    cursor: int
    waiting: bool = False  # stands in the queue of the next runs


def envelope(publication: Publication) -> bytes:
    """The members of the JSON event that the engine and the publisher add."""
    position = position_of(publication.epoch, publication.offset)
    return b',"position":"' + position.encode() + b'"' + publication.extra


class Replays:
    """`cut` closes a connection with a word of the close codes: a raw one that was too slow for what is kept and cannot
    be told, or one whose replay failed. `now_ms` is Unix time, `clock` any.
    """

    def __init__(
        self,
        reactor: Reactor,
        shelves: Mapping[bytes, Shelf],
        cut: Callable[[int, str], None],
        call_soon: Callable[[Callable[[], None]], object],
        clock: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self._reactor = reactor
        self._shelves = shelves
        self._cut = cut
        self._call_soon = call_soon
        self._clock = clock
        self._now_ms = now_ms
        self._of: dict[int, dict[bytes, Replay]] = {}
        self._next: deque[Replay] = deque()
        self._scheduled = False

    @property
    def count(self) -> int:
        """Subscriptions that are known to be behind."""
        return sum(map(len, self._of.values()))

    def start(self, conn: int, name: bytes, cursor: int) -> None:
        """A subscription was made that is behind. Its messages follow what is sent to it in this call of the loop."""
        replay = Replay(conn, name, self._shelves[name].ring.epoch, cursor)
        self._of.setdefault(conn, {})[name] = replay
        self._go_on(replay)

    def on_room(self, conn: int, fell_behind: list[tuple[bytes, int]]) -> None:
        """What the reactor calls; see there."""
        replays = self._of.get(conn, {})
        for name, cursor in fell_behind:
            known = replays.get(name)
            if known is not None:
                known.cursor = cursor  # what was queued of its replay has been taken back
            elif name in self._shelves:
                self.start(conn, name, cursor)
        for replay in replays.values():
            self._go_on(replay)

    def _go_on(self, replay: Replay) -> None:
        if replay.waiting:
            return
        replay.waiting = True
        self._next.append(replay)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.run)

    def run(self) -> None:
        """A page for each in turn, until the time is over."""
        self._scheduled = False
        until = self._clock() + RUN_SECONDS
        try:
            while self._next:
                replay = self._next.popleft()
                replay.waiting = False
                if self._page_or_cut(replay):
                    self._go_on(replay)
                if self._clock() >= until:
                    break
        finally:
            self._reactor.forget_replayed()
            if self._next and not self._scheduled:
                self._scheduled = True
                self._call_soon(self.run)

    def _page_or_cut(self, replay: Replay) -> bool:
        """What fails ends that one connection: left open, it would have a hole."""
        try:
            return self._page(replay)
        except Exception as error:
            self._reactor.report(error)
            self._cut(replay.conn, "internal_error")
            return self._forget(replay)

    def _page(self, replay: Replay) -> bool:
        """True: there is more, and room for it."""
        conn, name = replay.conn, replay.name
        shelf = self._shelves.get(name)
        if shelf is None or self._of.get(conn, {}).get(name) is not replay:
            return self._forget(replay)
        ring = shelf.ring
        ring.trim(shelf.rule, self._now_ms())
        if replay.epoch != ring.epoch or not ring.start <= replay.cursor <= ring.head:
            missed = ring.start - replay.cursor if replay.epoch == ring.epoch and replay.cursor < ring.start else None
            if not self._reactor.missed_behind(conn, name, missed):
                self._cut(conn, "too_slow")
                return self._forget(replay)
            replay.epoch, replay.cursor = ring.epoch, ring.start
        for one in ring.after(replay.cursor, PAGE_MESSAGES, PAGE_BYTES):
            if one.echo or one.conn != conn:
                answer = self._reactor.replay(conn, name, one.kind, one.payload, envelope(one), one.offset, one.time_ms)
                if answer == FULL:
                    return False
                if answer == GONE:
                    return self._forget(replay)
            replay.cursor = one.offset
        if replay.cursor < ring.head:
            return True
        if self._reactor.go_live(conn, name) == FULL:
            return False  # on_room follows
        return self._forget(replay)

    def _forget(self, replay: Replay) -> bool:
        of_conn = self._of.get(replay.conn)
        if of_conn is not None and of_conn.get(replay.name) is replay:
            del of_conn[replay.name]
            if not of_conn:
                del self._of[replay.conn]
        return False
