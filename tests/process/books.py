"""What a broker of several workers has counted, read as any of its processes could: from the shared page.

The invariants that can be told from outside: I4 everything is back to where it was, I6 the ledger of each worker
balances, I7 nothing was raised, I8 each end has one reason.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.metrics.page import Page
from broker.native._connection import CAUSES
from tests.process.command import PATIENCE_SECONDS, Served
from tests.process.supervised import children, descriptors

# What a process says that lost an exception or a task.
RAISED = ("Traceback", "was never retrieved", "was never awaited", "Task was destroyed", "Exception ignored")
_NONE_LEFT = ("g_connections", "g_sessions", "g_subscriptions", "g_channels", "g_queued", "g_slots")


def until(holds: Callable[[], object], what: Callable[[], str]) -> None:
    """Looks again and again: the memory of another process has no event to wait for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what()}"
        time.sleep(0.005)


class Books:
    """The rows of the workers."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def worker(self, index: int) -> dict[str, int]:
        """Of one worker: of both generations together, of which one is there unless it reloads."""
        rows = [dict(zip(self._names(), row.values(), strict=True)) for row in self._page.worker_rows(index)]
        return {name: sum(row[name] for row in rows) for name in rows[0]}

    def _names(self) -> list[str]:
        return list(self._page.totals())

    def all(self) -> list[dict[str, int]]:
        return [self.worker(index) for index in range(self._page.workers)]

    def check_i4_nobody_left(self) -> None:
        """I4: when all clients have left, no gauge counts anything any more."""
        until(lambda: not any(self._left()), lambda: f"nobody and nothing left: {self._left()}")

    def _left(self) -> list[dict[str, int]]:
        return [{name: books[name] for name in _NONE_LEFT if books[name]} for books in self.all()]

    def check_i6_ledger(self) -> None:
        """I6: each worker knows of every delivery that was due what became of it. Nothing may be under way."""
        for b in self.all():
            dropped = b["n_dropped_oldest"] + b["n_dropped_newest"] + b["n_dropped_latest"] + b["n_put_off"]
            assert b["n_offered"] == b["n_written"] + dropped + b["n_discarded"] + b["g_queued"], b

    def check_i7_nothing_raised(self) -> None:
        """I7, while it runs: no exception of Python code that a connection's event called."""
        assert [books["n_callback_errors"] for books in self.all()] == [0] * self._page.workers

    def check_i8_one_reason(self) -> None:
        """I8: every connection that is no more was counted once, under a reason that is known."""
        for books in self.all():
            ends = {name: count for name, count in books.items() if name.startswith("n_closed_")}
            assert sum(ends.values()) + books["g_connections"] == books["n_accepted"], books
            assert ends[f"n_closed_{CAUSES.index('unknown')}"] == 0

    def check_all(self) -> None:
        """When everybody has left."""
        self.check_i4_nobody_left()
        self.check_i6_ledger()
        self.check_i7_nothing_raised()
        self.check_i8_one_reason()


@contextmanager
def books(broker: Served) -> Iterator[Books]:
    """The page of a broker: the memfd that its supervisor holds, by one number or two (a mapping has its own)."""
    assert isinstance(broker.process.args, list)
    workers = int(broker.process.args[broker.process.args.index("--workers") + 1])
    folder = f"/proc/{broker.process.pid}/fd"
    found = [name for name in os.listdir(folder) if os.readlink(f"{folder}/{name}").startswith("/memfd:ws-broker-page")]
    fd = os.open(f"{folder}/{found[0]}", os.O_RDWR)
    try:
        yield Books(Page(fd, workers))
    finally:
        os.close(fd)


def held(broker: Served) -> dict[int, int]:
    """I4: how many file descriptors each of its processes has open."""
    return {pid: len(descriptors(pid)) for pid in (broker.process.pid, *children(broker))}


def check_i7_log(broker: Served) -> None:
    """I7, when it has ended: nothing was raised that nobody expected, and no task was forgotten."""
    for line in broker.errors.splitlines():
        assert not any(word in line for word in RAISED), broker.errors
