"""Counters that Python increments: rows of the same table as those of the native core.

Made by the worker, handed to parts that know nothing of the table (`broker.auth`) as a function of a name.
"""

from broker.native._counters import NAMES

_INDEX = {name: index for index, name in enumerate(NAMES)}


class Count:
    """`count("n_tokens_cached")` adds one. `table`: as the reactor's, SIZE native u64; it outlives this."""

    __slots__ = ("_cells",)

    def __init__(self, table: bytearray | memoryview) -> None:
        # By way of bytes: a row of the shared page is a view of u64 already, and those cannot be cast.
        self._cells = memoryview(table).cast("B").cast("Q")

    def __call__(self, name: str) -> None:
        self._cells[_INDEX[name]] += 1
