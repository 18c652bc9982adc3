"""What all rings of a worker may hold together: beyond it the one that was used longest ago is emptied.

Its channel stays subscribed and keeps its position; whoever resumes from before it is told that it is not complete.
Only copies are counted: an engine in this process counts its own rings.
"""

from collections import OrderedDict

from broker.engine.ring import Ring


class Budget:
    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        # Least recently used first; with what each counted when it was last used.
        self._rings: OrderedDict[bytes, tuple[Ring, int]] = OrderedDict()
        self.total_bytes = 0

    def use(self, name: bytes, ring: Ring) -> None:
        """A ring was read or has grown."""
        self.forget(name)
        self._rings[name] = (ring, ring.cost)
        self.total_bytes += ring.cost
        while self.total_bytes > self._most_bytes and len(self._rings) > 1:
            oldest = next(iter(self._rings))
            emptied, _ = self._rings[oldest]
            self.forget(oldest)
            emptied.clear()
        while self.total_bytes > self._most_bytes and len(ring):  # alone, and its rule allows more than the budget
            ring.drop_oldest()
            self._rings[name] = (ring, ring.cost)
            self.total_bytes = ring.cost

    def forget(self, name: bytes) -> None:
        """A ring is gone, or empty."""
        known = self._rings.pop(name, None)
        if known is not None:
            self.total_bytes -= known[1]
