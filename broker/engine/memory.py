"""The engine of a single worker: the order of calls is the order.

One event loop calls it, so a publication is sequenced by being next, and delivered before `publish` returns. There is
nothing to wait for and nothing that can fail but memory. Its rings are read by the worker as they are. The loop is also
the clock of presence.
"""

import time

from broker.config.schema import Limits
from broker.engine.base import EngineError, HistoryRule, Holdings, Joined, Member, Present, Publication, Receipt, Sink
from broker.engine.history import History
from broker.engine.ring import position_of
from broker.engine.roll import Clock, Roll
from broker.native._linked import Linked

_NOTHING_KEPT = Joined()
# Everybody came through the one worker that there is.
_HERE = "here"


class MemoryEngine:
    """`limits` None: the defaults; `clock` None: the running loop."""

    direct = True
    local = True

    def __init__(
        self,
        sink: Sink,
        limits: Limits | None = None,
        clock: Clock | None = None,
        history: History | None = None,
    ) -> None:
        self._sink = sink
        self.history = History(64 * 2**20, 65_536, time.time) if history is None else history
        self._roll = Roll(limits or Limits(), sink.presence, clock)

    def start(self, native: Linked) -> None:
        """Nothing has to be connected."""

    async def usable(self) -> None:
        """At once."""

    async def stop(self) -> None:
        """What presence has still to tell ends with the loop."""

    def publish(self, publication: Publication) -> Receipt:
        message_id = publication.message_id
        if message_id is not None:
            first = self.history.first_receipt(publication.channel, message_id)
            if first is not None:
                return first
        position = None
        if publication.history is not None:
            publication = self.history.add(publication)
            position = position_of(publication.epoch, publication.offset)
        try:
            receipt = Receipt(self._sink.deliver(publication), position)
        except MemoryError:
            if position is not None:  # it has its place already: whoever was not given it now reads it there
                self._sink.missed(publication.channel, 1)
                raise EngineError("outcome_unknown") from None
            raise EngineError("engine_unavailable") from None
        if message_id is not None:
            self.history.remember(publication.channel, message_id, receipt)
        return receipt

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        if history is None:
            return _NOTHING_KEPT
        ring = self.history.join(channel, history)
        return Joined(ring.epoch, ring.head, ring=ring)

    def leave(self, channel: bytes) -> None:
        self.history.leave(channel)

    def holdings(self) -> Holdings:
        return self.history.holdings(self._roll.places)

    def enter(self, channel: bytes, member: Member) -> None:
        self._roll.enter(channel, member, _HERE)

    def exit(self, channel: bytes, session: str) -> None:
        self._roll.exit(channel, session, _HERE)

    async def ask_all(self, question: bytes) -> list[bytes]:
        return [await self._sink.answer(question)]

    def presence(self, channel: bytes) -> Present:
        return self._roll.present(channel)
