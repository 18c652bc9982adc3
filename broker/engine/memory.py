"""The engine of a single worker: the order of calls is the order.

One event loop calls it, so a publication is sequenced by being next, and delivered before `publish` returns. There is
nothing to wait for and nothing that can fail but memory.
"""

from collections.abc import Callable

from broker.engine.base import EngineError, Publication, Receipt


class MemoryEngine:
    direct = True

    def __init__(self, deliver: Callable[[Publication], int]) -> None:
        self._deliver = deliver

    def publish(self, publication: Publication) -> Receipt:
        try:
            return Receipt(self._deliver(publication))
        except MemoryError:
            raise EngineError("engine_unavailable") from None
