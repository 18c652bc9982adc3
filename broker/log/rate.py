"""How many lines of one kind are written: what a client can provoke must not fill a disk, or hold the loop."""

import time
from collections.abc import Callable
from typing import NamedTuple

# While a flood goes on, how often it is said how many lines of it were suppressed.
TELL_SECONDS = 10.0


class _Bucket:
    __slots__ = ("left", "seen", "since", "suppressed")

    def __init__(self, left: float, now: float) -> None:
        self.left = left
        self.seen = now
        self.since = now
        self.suppressed = 0


class Suppressed(NamedTuple):
    """`of`: the kind of line, `lines`: how many of it were not written since it was last said."""

    of: str
    lines: int


class Limiter:
    """Tokens for each kind of line: `per_second` at once, and as many a second. `clock`: monotonic seconds.

    There are as many kinds as places in the code, so they need no bound.
    """

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._waiting: set[str] = set()

    def take(self, kind: str) -> bool:
        """Whether a line of this kind may be written now; else it is counted."""
        now = self._clock()
        bucket = self._buckets.get(kind)
        if bucket is None:
            bucket = self._buckets[kind] = _Bucket(self.per_second, now)
        self._fill(bucket, now)
        if bucket.left >= 1:
            bucket.left -= 1
            return True
        if not bucket.suppressed:
            bucket.since = now
            self._waiting.add(kind)
        bucket.suppressed += 1
        return False

    def _fill(self, bucket: _Bucket, now: float) -> None:
        bucket.left = min(self.per_second, bucket.left + (now - bucket.seen) * self.per_second)
        bucket.seen = now

    def due(self, *, at_the_end: bool = False) -> list[Suppressed]:
        """What is to be said of lines that were suppressed: of a kind whose bucket is full again, of one that goes on
        for TELL_SECONDS, and `at_the_end` of every one.
        """
        if not self._waiting:
            return []
        now = self._clock()
        found = []
        for kind in sorted(self._waiting):
            bucket = self._buckets[kind]
            self._fill(bucket, now)
            if at_the_end or bucket.left >= self.per_second or now - bucket.since >= TELL_SECONDS:
                found.append(Suppressed(kind, bucket.suppressed))
                bucket.suppressed = 0
                self._waiting.discard(kind)
        return found
