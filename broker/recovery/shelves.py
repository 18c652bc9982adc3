"""The rings of a worker: one for each channel with history that it has joined.

The node owns it and feeds it joins and deliveries. With an engine in this process the rings are the engine's own. With
one behind a link they are copies, made of what a join answers and what is delivered after it, and this is where holes
are found: whatever does not follow on what is there waits until a join has answered what lies between, and only then
goes to the live subscribers, in order.
"""

from collections.abc import Callable

import msgspec

from broker.engine.base import HistoryRule, Joined, Publication
from broker.engine.ring import Ring, read_position
from broker.recovery.budget import Budget
from broker.recovery.replays import Shelf

# Publications of one channel that wait for a join to be answered, and their bytes; beyond it the oldest go, and the
# join tells of them. 64 of the largest messages of the default configuration.
MOST_EARLY = 4096
MOST_EARLY_BYTES = 4 * 1024 * 1024


class Early(msgspec.Struct, gc=False):
    publications: list[Publication] = []
    size: int = 0


class Shelves(dict[bytes, Shelf]):
    """`fan_out` gives a publication to the live subscribers. `lost` tells them that some are missing right here; None =
    nobody knows how many. `ask` joins a channel again, because something is missing; one question at a time is enough.
    """

    def __init__(
        self,
        fan_out: Callable[[Publication], int],
        lost: Callable[[bytes, int | None], None],
        ask: Callable[[bytes], None],
        most_bytes: int,
    ) -> None:
        super().__init__()
        self._fan_out = fan_out
        self._lost = lost
        self._ask = ask
        self._budget = Budget(most_bytes)
        # What came before the answer of a join, by channel; a channel in here is not up to date.
        self._early: dict[bytes, Early] = {}

    def joined(self, name: bytes, rule: HistoryRule, joined: Joined) -> None:
        """A join was answered, the first or a later one."""
        early = self._early.pop(name, None)
        shelf = self.get(name)
        if joined.ring is not None:
            self[name] = Shelf(joined.ring, rule)
            return
        start = joined.head - len(joined.window)
        if shelf is None or shelf.own is None:
            ring = Ring(joined.epoch, start)
            self[name] = Shelf(ring, rule, ring)
            for publication in joined.window:
                ring.append(publication)
            self._budget.use(name, ring)
        else:
            ring = shelf.own
            if ring.epoch != joined.epoch:
                ring.renew(joined.epoch, start)
                self._lost(name, None)
            elif start > ring.head:
                self._lost(name, start - ring.head)
                ring.renew(joined.epoch, start)
            for publication in joined.window:
                self._append(ring, publication)
        for publication in () if early is None else early.publications:
            self._append(ring, publication)

    def expect(self, name: bytes) -> None:
        """A join is under way: what is delivered until it is answered comes after its answer."""
        self._early.setdefault(name, Early())

    def knows(self, name: bytes, since: str) -> bool:
        """False: the position may be one of the engine's that has not come here yet. A client that was at another
        worker a moment ago may have seen more than has been delivered here, or a newer life of the history.
        """
        shelf = self.get(name)
        if shelf is None or shelf.own is None:
            return True  # the engine's own ring, or none at all
        found = read_position(since)
        return found is None or (found[0] == shelf.own.epoch and found[1] <= shelf.own.head)

    def left(self, name: bytes) -> None:
        self.pop(name, None)
        self._budget.forget(name)
        self._early.pop(name, None)

    def deliver(self, publication: Publication) -> int:
        """The next publication of a joined channel; returns the deliveries caused by now."""
        name = publication.channel
        early = self._early.get(name)
        if early is None:
            shelf = self.get(name)
            if shelf is None or shelf.own is None:
                return self._fan_out(publication)
            ring = shelf.own
            if publication.epoch == ring.epoch and publication.offset <= ring.head + 1:
                ring.trim(shelf.rule, publication.time_ms)
                return self._append(ring, publication)
            early = self._early[name] = Early()
        self._ask(name)  # each time: a question that failed is not the last
        early.publications.append(publication)
        early.size += len(publication.payload)
        while len(early.publications) > MOST_EARLY or (early.size > MOST_EARLY_BYTES and len(early.publications) > 1):
            early.size -= len(early.publications.pop(0).payload)
        return 0

    def _append(self, ring: Ring, publication: Publication) -> int:
        """What is known already goes nowhere."""
        if publication.epoch != ring.epoch:
            return 0
        missing = publication.offset - ring.head - 1
        if missing < 0:
            return 0
        if missing:
            self._lost(publication.channel, missing)
        ring.append(publication)
        self._budget.use(publication.channel, ring)
        return self._fan_out(publication)
