"""Numbers that the processes of a scenario share while it runs: one 64-bit integer each, in a file that all map.

Whoever publishes has to know every millisecond how far the slowest subscriber is, and subscribers what has been
published; asking through a pipe would cost as much as the publishing. Each number has one writer.
"""

import mmap
import tempfile
from types import TracebackType

_BYTES = 8
HEAD = 0  # messages that may be published by now; the slots after it are the readers' processes'
NOBODY = 2**62


class Board:
    def __init__(self, path: str, slots: int) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), slots * _BYTES)
        self._numbers = memoryview(self._map).cast("q")

    def __getitem__(self, slot: int) -> int:
        return self._numbers[slot]

    def __setitem__(self, slot: int, number: int) -> None:
        self._numbers[slot] = number

    def slowest(self) -> int:
        return min(self._numbers[HEAD + 1 :])

    def close(self) -> None:
        self._numbers.release()
        self._map.close()


class NewBoard(Board):
    """A context: its file exists as long as it."""

    def __init__(self, slots: int) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="ws-broker-bench-")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(slots * _BYTES)
        self.path = self._file.name
        super().__init__(self.path, slots)

    def __enter__(self) -> "NewBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._file.close()
