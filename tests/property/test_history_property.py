"""The store against a plain list of everything that was ever published, under evictions, trims and restarts.

Invariant: whoever resumes from a position gets exactly what was published since, or is told that something is missing;
and no offset of a channel is ever given twice.
"""

from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from broker.engine.base import HistoryRule, Publication
from broker.engine.history import RING_BYTES, History
from broker.engine.ring import ENTRY_BYTES, Ring, read_position

CHANNELS = [b"a", b"b", b"c", b"d"]
RULES = {
    b"a": HistoryRule(3, 60.0, 10_000),
    b"b": HistoryRule(50, 10.0, 10_000),
    b"c": HistoryRule(50, 60.0, 40),
    b"d": HistoryRule(50, 60.0, 10_000),
}
BUDGET = 3 * (RING_BYTES + 4 * ENTRY_BYTES)


class HistoryMachine(RuleBasedStateMachine):
    positions: ClassVar[Bundle[tuple[bytes, str, int]]] = Bundle("positions")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000.0
        self.history = History(BUDGET, 10, lambda: self.now)
        self.published: dict[bytes, list[bytes]] = {channel: [] for channel in CHANNELS}
        self.offsets: dict[bytes, set[int]] = {channel: set() for channel in CHANNELS}
        self.readers: dict[bytes, Ring] = {}
        self.count = 0

    @rule(target=positions, channel=st.sampled_from(CHANNELS), size=st.integers(0, 30))
    def publish(self, channel: bytes, size: int) -> tuple[bytes, str, int]:
        self.count += 1
        payload = b"%d" % self.count + bytes(size)
        taken = self.history.add(Publication(channel, 1, payload, history=RULES[channel]))
        assert taken.offset not in self.offsets[channel]
        assert taken.offset > max(self.offsets[channel], default=0)
        self.offsets[channel].add(taken.offset)
        self.published[channel].append(payload)
        return self.here(channel)

    @rule(target=positions, channel=st.sampled_from(CHANNELS))
    def look(self, channel: bytes) -> tuple[bytes, str, int]:
        return self.here(channel)

    def here(self, channel: bytes) -> tuple[bytes, str, int]:
        """Where a subscriber stands who has everything up to now."""
        position = self.history.join(channel, RULES[channel]).position
        if channel not in self.readers:
            self.history.leave(channel)
        return channel, position, len(self.published[channel])

    @rule(at=positions, page=st.integers(1, 4))
    def resume(self, at: tuple[bytes, str, int], page: int) -> None:
        channel, position, known = at
        ring = self.history.join(channel, RULES[channel])
        cursor, complete = ring.cursor_of(position, None)
        got: list[bytes] = []
        while cursor < ring.head:
            found = ring.after(cursor, page, 1000)
            got += [one.payload for one in found]
            assert [one.offset for one in found] == list(range(cursor + 1, cursor + 1 + len(found)))
            cursor = found[-1].offset
        if channel not in self.readers:
            self.history.leave(channel)
        read = read_position(position)
        assert read is not None
        if complete:
            assert got == self.published[channel][known:]
        else:
            assert got == []
            assert read[0] != self.history.epoch or read[1] < ring.start

    @rule(channel=st.sampled_from(CHANNELS))
    def join(self, channel: bytes) -> None:
        ring = self.history.join(channel, RULES[channel])
        assert self.readers.setdefault(channel, ring) is ring

    @rule(channel=st.sampled_from(CHANNELS))
    def leave(self, channel: bytes) -> None:
        self.history.leave(channel)
        self.readers.pop(channel, None)

    @rule(seconds=st.sampled_from([1.0, 11.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(same=st.booleans())
    def restart(self, same: bool) -> None:
        self.history = History(BUDGET, 10, lambda: self.now, self.history.state() if same else None)
        self.readers.clear()
        if not same:
            self.offsets = {channel: set() for channel in CHANNELS}

    @invariant()
    def bounded(self) -> None:
        assert self.history.total_bytes <= BUDGET
        assert all(len(ring) == 0 or ring.head - ring.start == len(ring) for ring in self.readers.values())


HistoryMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestHistory = HistoryMachine.TestCase
