"""The engine of a single worker: the order of calls is the order.

One event loop calls it, so a publication is sequenced by being next, and delivered before `publish` returns. There is
nothing to wait for and nothing that can fail but memory.
"""

from broker.engine.base import EngineError, HistoryRule, Joined, Publication, Receipt, Sink
from broker.native._linked import Linked

_NOTHING_KEPT = Joined()


class MemoryEngine:
    direct = True
    local = True

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def start(self, native: Linked) -> None:
        """Nothing has to be connected."""

    async def usable(self) -> None:
        """At once."""

    async def stop(self) -> None:
        """Nothing is open."""

    def publish(self, publication: Publication) -> Receipt:
        try:
            return Receipt(self._sink.deliver(publication))
        except MemoryError:
            raise EngineError("engine_unavailable") from None

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        return _NOTHING_KEPT

    def leave(self, channel: bytes) -> None:
        """Nobody else knows of the channel."""
