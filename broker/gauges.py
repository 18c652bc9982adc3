"""What a worker looks at now and then instead of counting it: how late its loop is, what its history and its API hold.

Called by the worker every tick, in its loop; writes to the worker's row of the shared page. The engine process has its
own history and says so itself.
"""

from collections.abc import Callable

from broker.engine.base import Holdings
from broker.native import _counters
from broker.native._histogram import observe

_NAMES = _counters.NAMES
_LOOP_LAG = _counters.HISTOGRAMS["loop_lag_ns"]
_API_WAITING = _NAMES.index("g_api_waiting")
_LIMIT = _NAMES.index("g_connections_limit")

# Ticks between two looks at what changes slowly.
SLOW_TICKS = 20


class Gauges:
    """`cells`: the row as u64. `holdings` and `api_waiting` are asked; None: there is nothing to ask."""

    def __init__(
        self,
        cells: memoryview,
        max_connections: int,
        holdings: Callable[[], Holdings] | None,
        api_waiting: Callable[[], int] | None,
    ) -> None:
        self._cells = cells
        self._holdings = holdings
        self._api_waiting = api_waiting
        self._ticks = 0
        cells[_LIMIT] = max_connections

    def tick(self, late_seconds: float) -> None:
        """`late_seconds`: by how much this call comes after it was due, which is what everybody else waited as well."""
        observe(self._cells, _LOOP_LAG, int(late_seconds * 1e9))
        self._ticks += 1
        if self._ticks % SLOW_TICKS:
            return
        if self._api_waiting is not None:
            self._cells[_API_WAITING] = self._api_waiting()
        if self._holdings is not None:
            write_holdings(self._cells, self._holdings())


_HOLDINGS = tuple(
    _NAMES.index(name)
    for name in (
        "g_history_bytes",
        "g_history_messages",
        "g_history_channels",
        "n_history_evicted",
        "g_presence_members",
    )
)


def write_holdings(cells: memoryview, holdings: Holdings) -> None:
    for place, value in zip(_HOLDINGS, holdings, strict=True):
        cells[place] = value
