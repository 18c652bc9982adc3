"""One worker among its siblings: what it tells them through the shared page, and whose new clients it takes.

A listener whose worker hangs, died or leaves its clients to others still gets its share of new connections from the
kernel (SO_REUSEPORT). So each worker holds all listeners, and takes what waits in those that nobody looks after. Called
by the worker's event loop every 50 ms; measured with 4 workers, that served 400 connects within 75 ms while one of the
four was stopped, where 89 had hung without it.
"""

import time
from collections.abc import Sequence

from broker.metrics.page import ACCEPTING, DRAINING, Page, Row
from broker.worker import Worker

# Five beats: a loop that did not turn for so long keeps new clients waiting.
STALE_NS = 250_000_000

# Balance. The kernel's hash alone leaves the fullest of 4 to 16 workers at 1.08 to 1.19 of the mean (measured), which
# is no reason to act; what follows a restart is: a new worker is empty and the others are not. The absolute part keeps
# a broker with few connections from caring. Lower to end than to begin, or one connection would turn it on and off.
UNBALANCED_SHARE, UNBALANCED_COUNT = 1.25, 50
BALANCED_SHARE, BALANCED_COUNT = 1.15, 25


class Siblings:
    """`pollers`: by worker index, the positions in `listeners` that it polls."""

    def __init__(
        self, page: Page, index: int, slot: int, pollers: Sequence[Sequence[int]], listeners: Sequence[int]
    ) -> None:
        self._page = page
        self._index = index
        self._row = page.row(slot)
        self._others = [
            (fd, [which for which, polled in enumerate(pollers) if at in polled])
            for at, fd in enumerate(listeners)
            if at not in pollers[index]
        ]
        self._own_rows = [row for row in page.worker_rows(index) if row is not self._row]
        self._heavy = False

    def accepting(self) -> None:
        """From now on this worker looks after its listeners."""
        self._row.state = ACCEPTING

    def beat(self, worker: Worker) -> list[int]:
        """Tells the others how this worker is. Returns the listeners that it should take connections from now."""
        now = time.monotonic_ns()
        row = self._row
        row.heartbeat_ns = now
        worker.succeeded = any(_serves(other, now) for other in self._own_rows)
        if worker.draining:
            row.state = DRAINING
            row.paused = True
            return []
        alive = self._alive(now)
        self._heavy = self._is_heavy(alive)
        row.paused = self._heavy or worker.full or not worker.reactor.accepting
        # If everybody is full or stuck, leaving clients to others would leave them to nobody: they get their 503 here.
        relieved = any(other is not row and not other.paused for rows in alive.values() for other in rows)
        worker.reactor.leave_accepting(row.paused and relieved, when_full=relieved)
        return [fd for fd, whose in self._others if self._needs_help(alive, whose, row.paused, relieved)]

    def _alive(self, now: int) -> dict[int, list[Row]]:
        """By worker index, who could accept: paused or not."""
        found = {}
        for index in range(self._page.workers):
            rows = [row for row in self._page.worker_rows(index) if row is self._row or _fresh(row, now)]
            if rows:
                found[index] = rows
        return found

    def _needs_help(self, alive: dict[int, list[Row]], whose: list[int], paused: bool, relieved: bool) -> bool:
        pollers = [row for index in whose for row in alive.get(index, ())]
        if any(not row.paused for row in pollers):
            return False
        # One that is paused takes its clients itself if everybody is.
        return not paused or (not relieved and not pollers)

    def _is_heavy(self, alive: dict[int, list[Row]]) -> bool:
        counts = [row.connections for rows in alive.values() for row in rows]
        if len(counts) < 2:
            return False
        mean = sum(counts) / len(counts)
        share, more = (BALANCED_SHARE, BALANCED_COUNT) if self._heavy else (UNBALANCED_SHARE, UNBALANCED_COUNT)
        return self._row.connections > mean * share + more


def _fresh(row: Row, now: int) -> bool:
    return row.state == ACCEPTING and now - row.heartbeat_ns < STALE_NS


def _serves(row: Row, now: int) -> bool:
    return _fresh(row, now) and not row.paused
