"""The engine of a single worker: the order of calls is the order.

One event loop calls it, so a publication is sequenced by being next, and delivered before `publish` returns. There is
nothing to wait for and nothing that can fail but memory. The loop is also the clock of presence.
"""

from broker.config.schema import Limits
from broker.engine.base import EngineError, HistoryRule, Joined, Member, Present, Publication, Receipt, Sink
from broker.engine.roll import Clock, Roll
from broker.native._linked import Linked

_NOTHING_KEPT = Joined()
# Everybody came through the one worker that there is.
_HERE = "here"


class MemoryEngine:
    """`limits` None: the defaults; `clock` None: the running loop."""

    direct = True
    local = True

    def __init__(self, sink: Sink, limits: Limits | None = None, clock: Clock | None = None) -> None:
        self._sink = sink
        self._roll = Roll(limits or Limits(), sink.presence, clock)

    def start(self, native: Linked) -> None:
        """Nothing has to be connected."""

    async def usable(self) -> None:
        """At once."""

    async def stop(self) -> None:
        """What presence has still to tell ends with the loop."""

    def publish(self, publication: Publication) -> Receipt:
        try:
            return Receipt(self._sink.deliver(publication))
        except MemoryError:
            raise EngineError("engine_unavailable") from None

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        return _NOTHING_KEPT

    def leave(self, channel: bytes) -> None:
        """Nobody else knows of the channel."""

    def enter(self, channel: bytes, member: Member) -> None:
        self._roll.enter(channel, member, _HERE)

    def exit(self, channel: bytes, session: str) -> None:
        self._roll.exit(channel, session, _HERE)

    def presence(self, channel: bytes) -> Present:
        return self._roll.present(channel)
