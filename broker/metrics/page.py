"""The shared page: what every child tells of itself, readable by all others, also after it died.

One memfd of the supervisor, mapped by every child. A row belongs to one child at a time: its native counters (the slice
that a `Hub` increments), then what its event loop says of itself. Only the child writes its row while it lives; the
supervisor clears it before the start and folds it into the row of the retired after the death. A value is one aligned
u64, so a reader sees it old or new and never half; no two values are promised to be of the same moment.
"""

import mmap
import os

from broker.native._counters import NAMES, SIZE

EMPTY, STARTING, ACCEPTING, DRAINING = range(4)

# After the counters, in this order.
_HEARTBEAT, _PAUSED, _STATE, _PID = range(SIZE, SIZE + 4)
# Whole cache lines: 8 u64 each, so that two children never write the same one.
_ROW = -(-(SIZE + 4) // 8) * 8

# During a reload two generations serve beside each other.
GENERATIONS = 2
RETIRED, ENGINE = 0, 1
# Of each worker: a row for each generation, and one of those that are retired.
_WORKER_ROWS = GENERATIONS + 1

_CONNECTIONS = NAMES.index("g_connections")
_REFUSED = NAMES.index("g_refused")
_LINK_UP = NAMES.index("g_link_up")


def worker_slot(index: int, generation: int) -> int:
    """The row of a worker: what another worker computes as well."""
    return 2 + index * _WORKER_ROWS + generation % GENERATIONS


def _retired_slot(slot: int) -> int:
    """Where what the children of a slot have counted is kept: by worker, so that no counter of one ever goes down."""
    return RETIRED if slot == ENGINE else 2 + (slot - 2) // _WORKER_ROWS * _WORKER_ROWS + GENERATIONS


class Row:
    """One child's part. `counters` is a writable buffer of SIZE u64."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self.counters = cells[:SIZE]

    @property
    def heartbeat_ns(self) -> int:
        """When the child's event loop last said that it turns, CLOCK_MONOTONIC; 0 = not yet."""
        return int(self._cells[_HEARTBEAT])

    @heartbeat_ns.setter
    def heartbeat_ns(self, now_ns: int) -> None:
        self._cells[_HEARTBEAT] = now_ns

    @property
    def paused(self) -> bool:
        """It leaves new connections to others."""
        return bool(self._cells[_PAUSED])

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._cells[_PAUSED] = paused

    @property
    def state(self) -> int:
        return int(self._cells[_STATE])

    @state.setter
    def state(self, state: int) -> None:
        self._cells[_STATE] = state

    @property
    def pid(self) -> int:
        return int(self._cells[_PID])

    @property
    def connections(self) -> int:
        return int(self._cells[_CONNECTIONS])

    @property
    def refused(self) -> int:
        return int(self._cells[_REFUSED])

    @property
    def link_up(self) -> bool:
        """Whether publishes can be sequenced over its link to the engine process."""
        return bool(self.counters[_LINK_UP])

    @link_up.setter
    def link_up(self, up: bool) -> None:
        self.counters[_LINK_UP] = up

    def begin(self, pid: int) -> None:
        """What a child says first."""
        self._cells[_PID] = pid
        self._cells[_STATE] = STARTING

    def values(self) -> list[int]:
        return self.counters.tolist()

    def clear(self) -> None:
        for at in range(_ROW):
            self._cells[at] = 0


class Page:
    """`fd` is given to the children, which map the same memory with `Page.of`."""

    def __init__(self, fd: int, workers: int) -> None:
        self.fd = fd
        self.workers = workers
        self._cells = memoryview(mmap.mmap(fd, _size(workers))).cast("Q")
        self._rows = [Row(self._cells[at : at + _ROW]) for at in range(0, len(self._cells), _ROW)]

    @classmethod
    def new(cls, workers: int) -> "Page":
        fd = os.memfd_create("ws-broker-page")
        os.ftruncate(fd, _size(workers))
        return cls(fd, workers)

    def row(self, slot: int) -> Row:
        return self._rows[slot]

    def worker_rows(self, index: int) -> tuple[Row, ...]:
        """Those of one worker, of every generation."""
        return tuple(self._rows[worker_slot(index, generation)] for generation in range(GENERATIONS))

    def all_rows(self, index: int) -> tuple[Row, ...]:
        """Those of one worker, and the one of its predecessors."""
        return (*self.worker_rows(index), self._rows[_retired_slot(worker_slot(index, 0))])

    def retire(self, slot: int) -> None:
        """What a dead child counted stays counted; what it had is gone."""
        row, retired = self._rows[slot], self._rows[_retired_slot(slot)]
        for at, (name, value) in enumerate(zip(NAMES, row.values(), strict=True)):
            if name.startswith("n_"):
                retired.counters[at] = (retired.counters[at] + value) % 2**64
        row.clear()

    def sums(self) -> list[int]:
        """Every counter and gauge in the order of NAMES, summed over the living and the retired."""
        return [sum(column) % 2**64 for column in zip(*(row.values() for row in self._rows), strict=True)]

    def totals(self) -> dict[str, int]:
        """The same, by name."""
        return dict(zip(NAMES, self.sums(), strict=True))

    def taken(self) -> int:
        """Connections of all workers, without those that were refused and are about to go."""
        rows = (row for index in range(self.workers) for row in self.worker_rows(index))
        return sum(row.connections - row.refused for row in rows)

    def connections(self) -> list[int]:
        """Of each worker, by its index."""
        return [sum(row.connections for row in self.worker_rows(index)) for index in range(self.workers)]


def _size(workers: int) -> int:
    return 8 * _ROW * worker_slot(workers, 0)
