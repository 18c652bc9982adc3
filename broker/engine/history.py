"""The history of all channels of one engine: rings within a budget, and the message ids that were seen.

The memory engine owns one. Offsets are never reused: a channel that is evicted leaves its head behind in `floor`, above
which every channel begins that comes (or comes back) later. The epoch is of the data: it survives with a snapshot and
is another one without, so that a position never fits data that it does not belong to. No I/O; the clock is handed in
and tells Unix time, because what is kept may outlive the process.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from broker.engine.base import MESSAGE_ID_SECONDS, HistoryRule, Holdings, Publication, Receipt
from broker.engine.ring import Ring

# A channel without anything in it: ring, name, its place in two tables (measured: 400 to 500).
RING_BYTES = 512
_EPOCH_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
EPOCH_CHARACTERS = 5


def new_epoch() -> str:
    """One of 60 million: a restart must not meet the positions of the life before it."""
    return "".join(secrets.choice(_EPOCH_ALPHABET) for _ in range(EPOCH_CHARACTERS))


class SavedMessage(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A kept publication in a snapshot."""

    kind: int
    payload: bytes
    extra: bytes
    time_ms: int


class SavedChannel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A channel in a snapshot; entries end at `head`."""

    channel: bytes
    head: int
    entries: list[SavedMessage]


class SavedId(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A message id in a snapshot."""

    channel: bytes
    message_id: str
    until: float
    position: str | None


class State(msgspec.Struct, frozen=True, gc=False):
    """All of a history, for a snapshot. Channels in the order in which they would be evicted."""

    epoch: str
    floor: int
    channels: list[SavedChannel]
    message_ids: list[SavedId]


class _Kept(Ring):
    """`joined`: a worker reads it, so it stays, empty if need be. `accounted`, `counted`: its share of the totals."""

    __slots__ = ("accounted", "counted", "joined")

    def __init__(self, epoch: str, head: int) -> None:
        super().__init__(epoch, head)
        self.accounted = 0
        self.counted = 0
        self.joined = False


class History:
    """`most_bytes`: of everything that is kept. `most_message_ids`: of all channels; the oldest are forgotten first."""

    def __init__(
        self, most_bytes: int, most_message_ids: int, clock: Callable[[], float], state: State | None = None
    ) -> None:
        self._most_bytes = most_bytes
        self._most_message_ids = most_message_ids
        self._clock = clock
        self._rings: dict[bytes, _Kept] = {}
        # What may be evicted, least recently used first: every ring but those that are joined and empty.
        self._evictable: OrderedDict[bytes, _Kept] = OrderedDict()
        # Insertion order is order of expiry: all are kept equally long.
        self._seen: dict[tuple[bytes, str], tuple[float, Receipt]] = {}
        self.total_bytes = 0
        self.total_messages = 0
        self.evicted = 0
        self.epoch = new_epoch() if state is None else state.epoch
        self.floor = 0 if state is None else state.floor
        if state is not None:
            self._restore(state)

    def __len__(self) -> int:
        return len(self._rings)

    def holdings(self, presence_places: int) -> Holdings:
        return Holdings(self.total_bytes, self.total_messages, len(self._rings), self.evicted, presence_places)

    # Channels.

    def join(self, channel: bytes, rule: HistoryRule) -> Ring:
        """The ring of a channel, which keeps its place until `leave`; an empty one if there is none."""
        ring = self._ring(channel)
        ring.joined = True
        ring.trim(rule, self._now_ms())
        self._touch(channel, ring)
        return ring

    def leave(self, channel: bytes) -> None:
        ring = self._rings.get(channel)
        if ring is not None:
            ring.joined = False
            self._touch(channel, ring)

    def add(self, publication: Publication) -> Publication:
        """Sequences a publication with a history rule, and keeps it."""
        rule = publication.history
        assert rule is not None, "a live channel keeps nothing"
        ring = self._ring(publication.channel)
        now_ms = self._now_ms()
        sequenced = Publication(
            publication.channel,
            publication.kind,
            publication.payload,
            publication.extra,
            publication.conn,
            publication.echo,
            publication.message_id,
            rule,
            ring.head + 1,
            self.epoch,
            now_ms,
        )
        ring.append(sequenced)
        ring.trim(rule, now_ms)
        self._touch(publication.channel, ring)
        return sequenced

    def _ring(self, channel: bytes) -> _Kept:
        ring = self._rings.get(channel)
        if ring is None:
            ring = self._rings[channel] = _Kept(self.epoch, self.floor)
        return ring

    def _touch(self, channel: bytes, ring: _Kept) -> None:
        """It was used just now, and may have grown."""
        if ring.joined and not len(ring):
            self._evictable.pop(channel, None)
            cost = 0
        else:
            self._evictable[channel] = ring
            self._evictable.move_to_end(channel)
            cost = RING_BYTES + ring.cost
        self._account(ring, cost)
        while self.total_bytes > self._most_bytes and len(self._evictable) > 1:
            self._evict()
        while self.total_bytes > self._most_bytes and len(ring):  # alone, and its rule allows more than the budget
            ring.drop_oldest()
            self._account(ring, RING_BYTES + ring.cost)

    def _account(self, ring: _Kept, cost: int) -> None:
        self.total_bytes += cost - ring.accounted
        ring.accounted = cost
        self.total_messages += len(ring) - ring.counted
        ring.counted = len(ring)

    def _evict(self) -> None:
        channel, ring = self._evictable.popitem(last=False)
        ring.clear()
        self.evicted += 1
        self._account(ring, 0)
        if not ring.joined:
            del self._rings[channel]
            self.floor = max(self.floor, ring.head)

    # Message ids.

    def first_receipt(self, channel: bytes, message_id: str) -> Receipt | None:
        """The receipt of an earlier publication with the same id; None: it is new."""
        now = self._clock()
        while self._seen:  # expired ones, from the oldest on
            oldest = next(iter(self._seen))
            if self._seen[oldest][0] > now:
                break
            del self._seen[oldest]
        found = self._seen.get((channel, message_id))
        return None if found is None else found[1]

    def remember(self, channel: bytes, message_id: str, receipt: Receipt) -> None:
        if len(self._seen) >= self._most_message_ids:
            del self._seen[next(iter(self._seen))]
        self._seen[(channel, message_id)] = (self._clock() + MESSAGE_ID_SECONDS, receipt)

    # Snapshots.

    def state(self) -> State:
        """Everything, for `History(state=...)` of the next process. What was joined counts as used last."""
        channels = []
        ordered = [*self._evictable, *(name for name in self._rings if name not in self._evictable)]
        for channel in ordered:
            ring = self._rings[channel]
            page = ring.after(ring.start, len(ring), ring.cost)
            entries = [SavedMessage(one.kind, one.payload, one.extra, one.time_ms) for one in page]
            channels.append(SavedChannel(channel, ring.head, entries))
        seen = [
            SavedId(channel, message_id, until, receipt.position)
            for (channel, message_id), (until, receipt) in self._seen.items()
        ]
        return State(self.epoch, self.floor, channels, seen)

    def _restore(self, state: State) -> None:
        for saved in state.channels:
            ring = self._rings[saved.channel] = _Kept(self.epoch, saved.head - len(saved.entries))
            for number, entry in enumerate(saved.entries, ring.head + 1):
                ring.append(
                    Publication(
                        saved.channel,
                        entry.kind,
                        entry.payload,
                        entry.extra,
                        offset=number,
                        epoch=self.epoch,
                        time_ms=entry.time_ms,
                    )
                )
            self._touch(saved.channel, ring)
        for one in state.message_ids[-self._most_message_ids :]:
            self._seen[(one.channel, one.message_id)] = (one.until, Receipt(None, one.position))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
