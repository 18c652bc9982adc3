"""API keys: who asks, and what that key may do.

A presented key is hashed and compared with every configured hash in constant time, without an early exit: how long the
answer takes tells nothing of a hash. Keys are random, so a fast hash is enough, and nothing of a key is kept.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Mapping

from broker.api.problems import Problem
from broker.auth.patterns import PatternTable
from broker.config.schema import ApiKey, Scope
from broker.config.values import SUB


class Bucket:
    """A token bucket: `per_second` on average, one second's worth at once.

    Whoever takes more than is there is in debt and waits until that is paid: a batch larger than the bucket is not
    refused for ever.
    """

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._clock = clock
        self._tokens = self._most
        self._at = clock()

    def take(self, count: int) -> float:
        """0 = taken; else nothing is, until so many seconds have passed."""
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self._per_second
        self._tokens -= count
        return 0.0


class Key:
    """One key, as far as it has a name: nothing here is secret, its hash is no way back."""

    def __init__(self, name: str, key: ApiKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.settings = key
        self.scopes = frozenset(key.scopes)
        # A key has no user: a pattern with the user's id in it matches nothing, and never any segment.
        self._patterns = PatternTable({one: True for one in key.channels if SUB not in one.split(".")})
        # Everything: the common case, without a look at the table.
        self._everywhere = ">" in key.channels
        self._bucket = Bucket(key.messages_per_second, clock) if key.messages_per_second else None

    def need(self, scope: Scope) -> None:
        """Raises Problem."""
        if scope not in self.scopes:
            raise Problem("not_permitted", f"the key {self.name} lacks the scope {scope}")

    def covers(self, channel: str) -> bool:
        return self._everywhere or self._patterns.match(channel) is not None

    def need_channel(self, channel: str) -> None:
        """Raises Problem."""
        if not self.covers(channel):
            raise Problem("not_permitted", f"the key {self.name} is not for this channel")

    def spend(self, messages: int) -> None:
        """Raises Problem with the time after which it is worth to try again."""
        if self._bucket is None:
            return
        seconds = self._bucket.take(messages)
        if seconds:
            raise Problem("rate_limited", headers=((b"retry-after", b"%d" % math.ceil(seconds)),))


class Keys:
    """`before`: those that hold until now; what is the same in both goes on with its bucket as full as it is."""

    def __init__(
        self, keys: Mapping[str, ApiKey], clock: Callable[[], float] = time.monotonic, before: "Keys | None" = None
    ) -> None:
        self._configured = dict(keys)
        known = {} if before is None else {key.name: key for _, key in before._keys}
        self._keys: list[tuple[bytes, Key]] = []
        for name, key in keys.items():
            same = before is not None and before._configured.get(name) == key
            self._keys.append((bytes.fromhex(key.sha256), known[name] if same else Key(name, key, clock)))

    def find(self, presented: bytes) -> Key | None:
        digest = hashlib.sha256(presented).digest()
        found = None
        for sha256, key in self._keys:
            if hmac.compare_digest(digest, sha256):
                found = key
        return found

    def __repr__(self) -> str:
        return f"Keys({', '.join(key.name for _, key in self._keys)})"
