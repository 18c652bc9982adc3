"""The send queue against a naive model of its contract: any sequence of deliveries, writes, blocking and closing.

The model keeps one list of what waits, and rebuilds every number from it; the queue does the same with rings, marks and
tombstones. Invariant: the bytes that leave, what still waits, and every account agree after
every step; at the end nothing is alive.
"""

import json
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.native._outbox import Queue, Queues
from tests.server_frames import CLOSE, PING, PONG, TEXT, frame, frames

MAX_BYTES = 700
MAX_MESSAGES = 8
SLOT = 16
TIME = 1_700_000_000_000  # the clock's value is left out of comparisons; its 13 digits count as bytes
# Without catch_up, whose messages come from a history that there is not here.
POLICIES = ("disconnect", "drop_oldest", "drop_newest", "latest")
NAMES = (b"a", b"b", b"c", b"d", b"e")


@dataclass(eq=False)
class Subscription:
    name: bytes
    policy: str
    missed: int = 0
    gap_waits: bool = False
    here: bool = True


@dataclass(eq=False)
class Item:
    """Something that waits: bytes, or None for a gap notice. `of` is set for a delivery and a notice."""

    data: bytes | None
    of: Subscription | None = None


@dataclass
class Model:
    json: bool
    items: list[Item] = field(default_factory=list)
    begun: int = 0  # bytes of the first frame already written
    pong: bytes | None = None
    blocked: bool = False
    closed: bool = False
    offered: int = 0
    written: int = 0
    discarded: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(POLICIES, 0))

    @property
    def queued_bytes(self) -> int:
        return sum(len(item.data) for item in self.items if item.data is not None)

    def fits(self, size: int) -> bool:
        pong = 0 if self.pong is None else len(self.pong) + SLOT
        # A gap notice is never dropped, nor the cause of a drop.
        waiting = sum(item.data is not None for item in self.items)
        used = self.queued_bytes + SLOT * waiting + pong
        return waiting < MAX_MESSAGES and used + size + SLOT <= MAX_BYTES

    def victims(self, wanted: Subscription | None = None) -> list[Item]:
        """Deliveries that may be given up, oldest first; the frame that was begun never is."""
        unsent = self.items[1:] if self.begun else self.items
        return [
            item
            for item in unsent
            if item.data is not None
            and item.of is not None
            and (item.of is wanted if wanted else item.of.policy != "disconnect")
        ]

    def drop(self, item: Item) -> None:
        assert item.of is not None
        self.dropped[item.of.policy] += 1
        item.of.missed += 1
        if self.json and not item.of.gap_waits:
            item.of.gap_waits = True
            item.data = None
        else:
            self.items.remove(item)

    def envelope(self, of: Subscription, text: str) -> bytes:
        if not self.json:
            return frame(TEXT, text.encode())
        event = {"type": "message", "channel": of.name.decode(), "text": text, "time": TIME}
        return frame(TEXT, json.dumps(event, separators=(",", ":")).encode())

    def offer(self, of: Subscription, text: str, room: int, gone: bool) -> str:
        data = self.envelope(of, text)
        self.offered += 1
        live = any(item.of is of and item.data is not None for item in self.items)
        if not self.fits(len(data)) or (self.blocked and of.policy == "latest" and live):
            while not self.blocked:
                if gone:
                    self.closed = True
                    self.discarded += 1
                    return ""
                room -= self.flush(room)
                if not self.blocked and (not self.items or self.fits(len(data))):
                    self.items.append(Item(data, of))
                    return ""
            verdict = self.make_room(of, len(data))
            if verdict == "push":
                self.items.append(Item(data, of))
            return verdict
        self.items.append(Item(data, of))
        return ""

    def make_room(self, of: Subscription, size: int) -> str:
        if of.policy == "disconnect":
            for victim in self.victims():
                if not self.fits(size):
                    self.drop(victim)
        elif of.policy == "drop_oldest":
            for victim in self.victims(of):
                if not self.fits(size):
                    self.drop(victim)
        elif of.policy == "latest":
            for victim in self.victims(of):
                self.drop(victim)
        if self.fits(size):
            return "push"
        if of.policy == "disconnect":
            self.closed = True
            self.discarded += 1
            return "disconnect"
        self.dropped[of.policy] += 1
        of.missed += 1
        if self.json and not of.gap_waits:
            of.gap_waits = True
            self.items.append(Item(None, of))
        return "dropped"

    def block(self) -> None:
        self.blocked = True
        for item in self.victims():
            if item.of is not None and item.of.policy == "latest" and len(self.victims(item.of)) > 1:
                self.drop(item)

    def flush(self, room: int) -> int:
        """What the hub does before it asks a policy: everything is laid out, and the kernel takes `room` of it."""
        total = self.lay_out(10**9)
        took = len(self.take(min(room, total)))
        if took < total:
            self.block()
        return took

    def lay_out(self, size: int) -> int:
        """Fills in the counts of gap notices until `size` bytes are ready to be written; returns how many are."""
        if self.pong is not None and not self.closed:
            self.items.append(Item(self.pong))
            self.pong = None
        ready = -self.begun
        for item in list(self.items):
            if ready >= size and ready > 0:
                break
            if item.data is None:
                assert item.of is not None
                if not item.of.here:  # the client has unsubscribed: it is told nothing
                    self.items.remove(item)
                    item.of.gap_waits = False
                    continue
                event = {"type": "gap", "channel": item.of.name.decode(), "missed": item.of.missed}
                item.data = frame(TEXT, json.dumps(event, separators=(",", ":")).encode())
                item.of.missed = 0
                item.of.gap_waits = False
                item.of = None
            ready += len(item.data)
        return ready

    def take(self, size: int) -> bytes:
        data = b""
        while size and self.items:
            item = self.items[0]
            assert item.data is not None
            left = item.data[self.begun : self.begun + size]
            data += left
            size -= len(left)
            self.begun += len(left)
            if self.begun == len(item.data):
                self.begun = 0
                self.written += item.of is not None
                del self.items[0]
        return data

    def discard(self) -> None:
        rest = self.items[1:] if self.begun else self.items
        self.discarded += sum(item.of is not None and item.data is not None for item in rest)
        for item in rest:
            if item.of is not None:
                item.of.gap_waits = item.of.gap_waits and item.data is not None
        self.items = self.items[:1] if self.begun else []
        self.pong = None


def timeless(data: bytes) -> bytes:
    """Bytes with the digits of the envelope's time replaced: 13 digits after `"time":`."""
    out, at = bytearray(data), 0
    while (at := out.find(b'"time":', at)) >= 0:
        at += 7
        end = at
        while end < len(out) and end < at + 13 and 48 <= out[end] <= 57:
            end += 1
        out[at:end] = b"0" * (end - at)
    return bytes(out)


class Machine(RuleBasedStateMachine):
    @initialize(format=st.sampled_from(["raw", "json"]), policies=st.tuples(*[st.sampled_from(POLICIES)] * len(NAMES)))
    def begin(self, format: str, policies: tuple[str, ...]) -> None:
        self.queues = Queues(MAX_BYTES, MAX_MESSAGES)
        self.queue = Queue(self.queues, format)
        self.publisher = Queue(self.queues, "raw")
        self.model = Model(format == "json")
        self.policies = dict(zip(NAMES, policies, strict=True))
        self.subscriptions: dict[bytes, Subscription] = {}
        self.output = self.expected = b""
        self.ended = False
        for name in NAMES[:3]:
            self.subscribe(name)

    def subscribe(self, name: bytes) -> None:
        self.queue.subscribe(name, self.policies[name])
        self.subscriptions[name] = Subscription(name, self.policies[name])

    def gather(self, data: bytes) -> None:
        self.output += data

    @precondition(lambda self: not self.model.closed)
    @rule(
        names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=12),
        size=st.sampled_from([1, 1, 1, 40, 130, 400]),
        room=st.sampled_from([0, 0, 7, 60, 500, 5000]),
    )
    def deliver(self, names: list[bytes], size: int, room: int) -> None:
        for name in names:
            if not self.model.closed:
                self.offer(name, "y" * size, room, gone=False)

    def offer(self, name: bytes, text: str, room: int, gone: bool) -> None:
        self.queue.room = -1 if gone else room
        reached = self.publisher.publish(name, 1, text.encode())
        assert reached == (name in self.subscriptions)
        if not reached:
            return
        verdict = self.expect_offer(self.subscriptions[name], text, room, gone)
        assert self.queue.too_slow == (verdict == "disconnect")
        assert self.queue.closed == self.model.closed
        self.gather(self.queue.taken())

    def expect_offer(self, of: Subscription, text: str, room: int, gone: bool) -> str:
        taken: list[bytes] = []
        take = self.model.take

        def keep(size: int) -> bytes:
            taken.append(take(size))
            return taken[-1]

        self.model.take = keep  # type: ignore[method-assign]
        verdict = self.model.offer(of, text, room, gone)
        self.model.take = take  # type: ignore[method-assign]
        self.expected += b"".join(taken)
        return verdict

    @precondition(lambda self: not self.model.closed)
    @rule(name=st.sampled_from(NAMES))
    def join_or_leave(self, name: bytes) -> None:
        if name in self.subscriptions:
            self.queue.unsubscribe(name)
            self.subscriptions.pop(name).here = False
        else:
            self.subscribe(name)

    @rule(size=st.integers(0, 300), ahead=st.integers(0, 300))
    def write(self, size: int, ahead: int) -> None:
        self.model.lay_out(size + ahead)
        self.expected += self.model.take(size)
        self.gather(self.queue.write(size, size + ahead))

    @rule()
    def write_everything(self) -> None:
        self.model.lay_out(10**9)
        self.expected += self.model.take(10**9)
        self.gather(self.queue.write(10**9))

    @rule()
    def become_blocked(self) -> None:
        self.model.block()
        self.queue.block()

    @rule()
    def become_writable(self) -> None:
        self.model.blocked = False
        self.queue.unblock()

    @precondition(lambda self: not self.model.closed)
    @rule(size=st.integers(0, 125))
    def reply(self, size: int) -> None:
        for victim in self.model.victims():
            if not self.model.fits(size + 10):
                self.model.drop(victim)
        fits = self.model.fits(size + 10)
        assert self.queue.reply(b"r" * size) == fits
        if fits:
            self.model.items.append(Item(frame(TEXT, b"r" * size)))

    @precondition(lambda self: not self.model.closed)
    @rule()
    def ping(self) -> None:
        self.queue.ping(b"?")
        self.model.items.append(Item(frame(PING, b"?")))

    @rule(payload=st.binary(max_size=8))
    def pong(self, payload: bytes) -> None:
        self.queue.pong(payload)
        self.model.pong = None if self.model.closed else frame(PONG, payload)

    @rule(how=st.sampled_from(["the peer has gone", "discard", "close", "close"]))
    def end(self, how: str) -> None:
        if how == "the peer has gone" and not self.model.closed:
            for name in NAMES:
                if not self.model.closed:
                    self.offer(name, "z" * 100, 0, gone=True)
        elif how == "discard":
            self.model.discard()
            self.queue.discard()
        elif how == "close" and not self.ended:
            self.ended = True
            self.queue.end(b"\x03\xe8")
            for subscription in self.subscriptions.values():
                subscription.here = False
            self.subscriptions.clear()
            self.model.discard()
            self.model.closed = True
            self.model.items.append(Item(frame(CLOSE, b"\x03\xe8")))

    @invariant()
    def the_same_bytes_have_left(self) -> None:
        assert timeless(self.output) == timeless(self.expected)

    @invariant()
    def the_same_waits(self) -> None:
        waiting = [None if item.data is None else timeless(item.data) for item in self.model.items]
        assert [None if data is None else timeless(data) for data in self.queue.queued()] == waiting
        assert self.queue.queued_bytes == self.model.queued_bytes
        assert self.queue.blocked == self.model.blocked

    @invariant()
    def latest_keeps_one_on_a_blocked_connection(self) -> None:
        if self.model.blocked:
            for subscription in self.subscriptions.values():
                assert subscription.policy != "latest" or len(self.model.victims(subscription)) <= 1

    @invariant()
    def tombstones_stay_few(self) -> None:
        assert self.queue.slots == len(self.model.items) + self.queue.tombstones
        assert self.queue.tombstones <= 16 + len(self.model.items)

    @invariant()
    def the_ledger_balances(self) -> None:
        counters, model = self.queues.counters(), self.model
        waiting = sum(item.of is not None and item.data is not None for item in model.items)
        assert counters["n_offered"] == model.offered
        assert counters["n_written"] == model.written
        assert counters["n_discarded"] == model.discarded
        assert counters["g_queued"] == waiting
        for policy in ("oldest", "newest", "latest"):
            name = "latest" if policy == "latest" else f"drop_{policy}"
            assert counters[f"n_dropped_{policy}"] == model.dropped[name]
        dropped = sum(model.dropped.values())
        assert model.offered == model.written + model.discarded + dropped + waiting
        assert counters["g_slots"] == self.queue.slots
        alive = len([item for item in model.items if item.data is not None]) + (model.pong is not None)
        assert counters["g_frames"] == alive

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        self.queue.close()
        self.publisher.close()
        counters = self.queues.counters()
        assert self.queues.physical == 0
        assert {name: value for name, value in counters.items() if name.startswith("g_") and value} == {}
        rest = self.model.items[0].data if self.model.begun else b""
        assert rest is not None
        frames(self.output + rest[self.model.begun :])


Machine.TestCase.settings = settings(stateful_step_count=60)
test_the_queue_does_what_its_model_does = Machine.TestCase
