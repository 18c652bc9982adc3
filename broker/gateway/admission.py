"""Who is let near the opening: how many upgrades a second, how many connections in all and from one address.

The gateway asks for each upgrade, before its origin, its offer or its identity is looked at; a refusal here costs no
more than its answer. Everything is per worker but the cap over all of them, whose sum `total` reads in the shared page.
Tables are bounded: addresses with sessions by the sessions, refused ones by `Rate`.
"""

from collections.abc import Callable

from broker.config.schema import Limits
from broker.gateway.addresses import Addresses, address_key
from broker.gateway.refusals import CAUSE_OF, Rate, problem
from broker.native import _counters
from broker.native._rate import Bucket
from broker.native._reactor import Reactor
from broker.native._request import Request

# Until a place of one's own address may have become free: nobody knows, and a person reloads sooner.
_RETRY_SECONDS = 5
_NAMES = _counters.NAMES


class Admission:
    """`counters`: the worker's row as u64. `total`: connections of all workers, without those refused already."""

    def __init__(
        self,
        reactor: Reactor,
        limits: Limits,
        addresses: Addresses,
        counters: memoryview,
        total: Callable[[], int],
    ) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self._counters = counters
        self._total = total
        self._most_total = limits.max_connections_total
        self._most_of_address = limits.max_connections_per_address
        self._most_refused = limits.blocked_after_refusals_per_minute
        self._upgrades = Bucket(limits.upgrades_per_second, limits.upgrade_burst)
        self._held: dict[str, int] = {}
        self._refused = Rate(lambda: reactor.now_ns_since_start / 1e9)
        self._looks = bool(self._most_of_address or self._most_refused) or addresses.source != "peer"

    def refusal(self, conn: int, request: Request) -> tuple[bytes, int] | None:
        """The answer to an upgrade that may not go on, and the cause to count it by."""
        if not self._upgrades.take(1, self._reactor.now_ns_since_start):
            return self._overloaded("n_refused_upgrades", "more clients come than this server lets in at once")
        if self._most_total and self._total() > self._most_total:
            return self._overloaded("n_refused_total", "this broker holds as many connections as it may")
        return self._refusal_of_address(conn, request) if self._looks else None

    def _refusal_of_address(self, conn: int, request: Request) -> tuple[bytes, int] | None:
        peer = self._reactor.address(conn)
        if peer is None:
            return None
        address = self._addresses.client(peer, request.headers() if self._addresses.source != "peer" else ())
        if address != peer:
            self._reactor.name(conn, address, False)
        key = address_key(address)
        if self._most_refused:
            seconds = self._refused.blocked(key, self._most_refused)
            if seconds:
                return self._too_many("n_refused_blocked", "this address was refused too often", seconds)
        if self._most_of_address:
            held = self._held.get(key, 0)
            if held >= self._most_of_address:
                text = "this address holds as many connections as it may"
                return self._too_many("n_refused_address", text, _RETRY_SECONDS)
            if self._reactor.name(conn, address, True):
                self._held[key] = held + 1
        return None

    def left(self, address: str) -> None:
        """A connection that was admitted with this address has ended."""
        key = address_key(address)
        held = self._held[key] - 1
        if held:
            self._held[key] = held
        else:
            del self._held[key]

    def failed(self, conn: int) -> None:
        """A handshake was refused for what it asked for."""
        if self._most_refused:
            self._refused.count(address_key(self._reactor.address(conn) or ""))

    def malformed(self, conn: int) -> None:
        """A request was refused before anybody could read whose it is."""
        if self._addresses.source == "peer":
            self.failed(conn)

    def proxied(self, conn: int, peer: str | None, client: str | None) -> bool:
        if not self._addresses.trusted(peer):
            return False
        if client is not None and client != peer:
            self._reactor.name(conn, client, False)
        return True

    def _overloaded(self, counter: str, text: str) -> tuple[bytes, int]:
        self._count(counter)
        return problem(503, text, "overloaded"), CAUSE_OF["overloaded"]

    def _too_many(self, counter: str, text: str, seconds: int) -> tuple[bytes, int]:
        self._count(counter)
        return problem(429, text, "rate_limited", retry_after_seconds=seconds), CAUSE_OF["rate_limited"]

    def _count(self, counter: str) -> None:
        self._counters[_NAMES.index(counter)] += 1
