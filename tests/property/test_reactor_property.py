"""A whole reactor under peers and callbacks that do anything at any moment, in any order.

Peers send whole, cut and forbidden frames, half-close, reset, stop reading; callbacks call verbs on their own and on
other connections, or raise. With its engine elsewhere, that says anything at any moment, is cut and comes back, and
callbacks of its link do what those of connections do. Invariant: however it went, every delivery is accounted for,
every session and every link ends once, and when all have left no connection, frame, queue slot or byte of memory is
left of them.
"""

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from broker.engine.base import HistoryRule, Publication
from broker.engine.ring import Ring
from broker.gateway.refusals import CAUSE_OF
from broker.native._request import Request
from broker.recovery.replays import Replays, Shelf
from tests.client_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.integration.turning import ANY_PAYLOAD, BAD_REQUEST, REQUEST, TEXT_KIND, TOO_SLOW, Peer, Turning, accept
from tests.records import ACK, CALL, ERROR, HEAD, MESSAGE, MISSED, NO_ECHO, OFFSET, PUBLISH, REPLY, Record, unpack

BYE = (1001).to_bytes(2) + b"bye"
GOING_AWAY = CAUSE_OF["going_away"]
NAMES = (b"disconnect", b"oldest", b"newest", b"latest", b"kept")  # each channel's policy is its place
KEPT = 4
RULE = HistoryRule(50, 1e9, 500_000)
LIMITS = {
    "ping_seconds": 2.0,
    "pong_seconds": 1.0,
    "write_seconds": 3.0,
    "message_seconds": 2.0,
    "handshake_seconds": 4.0,
    "linger_seconds": 1.0,
    "close_seconds": 1.0,
}

sizes = st.sampled_from([1, 100, 5000, 60_000])
names = st.sampled_from(range(len(NAMES)))
# What a callback does: a verb, which connection (0 = its own), and numbers that the verb uses as it likes.
verbs = st.sampled_from(
    [
        "close",
        "join",
        "leave",
        "publish",
        "send",
        "resume",
        "respond",
        "look",
        "raise",
        "exit",
        "turn",
        "stop",
        "attach",
        "detach",
        "link_publish",
        "link_call",
        "link_wait",
        "nothing",
    ]
)
plans = st.tuples(verbs, st.integers(0, 9), names, sizes, st.booleans())
Plan = tuple[str, int, int, int, bool]

good = st.builds(
    frame,
    st.sampled_from([TEXT, TEXT, TEXT, BINARY, PING, PONG]),
    st.sampled_from([b"hello", b"ping", b"{}", b"", b"x" * 125]),
)
large = st.builds(frame, st.just(BINARY), st.sampled_from([b"y" * 200, b"y" * 4000, b"y" * 60_000]))
odd = st.builds(
    lambda opcode, payload, fin, masked: frame(opcode, payload, fin=fin, mask=b"\1\2\3\4" if masked else None),
    st.sampled_from([TEXT, BINARY, CONTINUATION, CLOSE, PING, 0x3]),
    st.sampled_from([b"hello", b"", b"\x03\xe8", b"\xff", b"y" * 200]),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
)
frames = st.integers(0, 9).flatmap(lambda n: odd if n == 9 else large if n == 8 else good)
says = st.sampled_from(["message", "message", "kept", "ack", "ack", "missed", "call", "reply", "odd"])
# What an engine says: what, the channel, a size, a flag.
sayings = st.lists(st.tuples(says, names, sizes, st.booleans()), min_size=1, max_size=6)
ends = st.sampled_from([Peer.half_close, Peer.reset, Peer.close])


class Anything(RuleBasedStateMachine):
    @initialize(
        queue_bytes=st.sampled_from([2000, 20_000, 1 << 20]),
        queue_messages=st.sampled_from([8, 64, 1 << 15]),
        memory=st.sampled_from([1 << 16, 1 << 20, 1 << 28]),
        places=st.sampled_from([3, 1000]),
        messages=st.sampled_from([1, 3, 1024]),
        offers=st.sampled_from([1, 5, 1 << 16]),
        window=st.sampled_from([0, 200, 5000, 1 << 20]),
    )
    def begin(
        self, queue_bytes: int, queue_messages: int, memory: int, places: int, messages: int, offers: int, window: int
    ) -> None:
        self.world = Turning(
            **LIMITS,
            send_queue_bytes=queue_bytes,
            send_queue_messages=queue_messages,
            memory_bytes=memory,
            max_connections=places,
            read_pass_messages=messages,
            read_pass_offers=offers,
        )
        self.plans: deque[list[Plan]] = deque()
        self.undecided: list[tuple[int, Request]] = []
        self.ring = Ring("epoch", 0)
        self.soon: list[Callable[[], None]] = []
        self.replays = Replays(
            self.world.reactor,
            {NAMES[KEPT]: Shelf(self.ring, RULE)},
            self.cut,
            self.soon.append,
            float,
            int,
        )
        self.world.reactor.on_room = self.replays.on_room
        self.world.when_requested = self.requested
        self.world.when_message = self.message
        self.world.when_too_slow = self.too_slow
        self.world.when_ended = self.ended
        self.link = AnyLink(self, window) if window else None
        if self.link is not None:
            self.link.attach()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.plans.clear()
            if self.link is not None:
                self.world.reactor.detach_link()
            self.world.end_everybody()
            self.run_replays()
            self.world.check()
            assert self.replays.count == 0
            if self.link is not None:
                assert self.link.downs == self.link.attached, "each link ends once"
                self.link.attach()
                self.world.reactor.link_call(1, 1, b"c", b"never written")
        finally:
            self.world.destroy()
            if self.link is not None:
                self.link.close()
        assert self.world.counter("g_frames") == 0
        assert self.world.hub.memory == 0

    def cut(self, conn: int, word: str) -> None:
        self.world.reactor.close(conn, BYE, GOING_AWAY)

    def run_replays(self) -> None:
        while self.soon:
            self.soon.pop(0)()

    def publish_kept(self, conn: int, size: int, echo: bool) -> None:
        offset = self.ring.head + 1
        kept = Publication(
            NAMES[KEPT], TEXT_KIND, b"k" * size, b"", conn, echo, offset=offset, epoch="epoch", time_ms=1
        )
        self.ring.append(kept)
        self.ring.trim(RULE, 1)
        self.world.reactor.publish_kept(conn, NAMES[KEPT], TEXT_KIND, kept.payload, b"", echo, offset, 1)

    def join_kept(self, conn: int, back: int) -> None:
        """Begins at the head, or some messages before it."""
        cursor = max(self.ring.start, self.ring.head - back)
        if cursor == self.ring.head:
            self.world.reactor.subscribe(conn, NAMES[KEPT], KEPT, ANY_PAYLOAD, True, False)
        elif self.world.reactor.subscribe_behind(conn, NAMES[KEPT], KEPT, ANY_PAYLOAD, False):
            self.replays.start(conn, NAMES[KEPT], cursor)

    # Callbacks.

    def act(self, conn: int) -> bool:
        """Carries out what is planned for the next callback; True when the last of it says so."""
        flag = False
        known = self.world.requests
        for verb, which, name, size, flag in self.plans.popleft() if self.plans else ():
            self.verb(verb, known[-which] if 0 < which <= len(known) else conn, name, size, flag)
        return flag

    def verb(self, verb: str, conn: int, name: int, size: int, flag: bool) -> None:
        reactor = self.world.reactor
        actions: dict[str, Callable[[], object]] = {
            "close": lambda: reactor.close(conn, BYE, GOING_AWAY),
            "join": lambda: reactor.subscribe(conn, NAMES[name], name, ANY_PAYLOAD, size < 60_000, flag),
            "leave": lambda: reactor.unsubscribe(conn, NAMES[name]),
            "publish": lambda: reactor.publish(conn, NAMES[name], TEXT_KIND, b"p" * size, b"", flag),
            "send": lambda: reactor.send(conn, b"s" * size),
            "resume": lambda: reactor.resume(conn),
            "respond": lambda: reactor.respond(conn, BAD_REQUEST, 4),
            "look": lambda: (reactor.session_id(conn), reactor.address(conn), reactor.subscriptions(conn)),
            "turn": lambda: reactor.turn(),
            "stop": lambda: reactor.close_all(BYE, GOING_AWAY, BAD_REQUEST) if size == 1 else None,
            "nothing": lambda: None,
            "attach": lambda: self.link.attach() if self.link else None,
            "detach": lambda: reactor.detach_link(),
            "link_publish": lambda: reactor.link_publish(NAMES[name], TEXT_KIND, b"l" * size, b"", conn, flag),
            "link_call": lambda: reactor.link_call(1, size, NAMES[name], b"c" * size),
            "link_wait": lambda: reactor.link_wait(flag),
        }
        if name == KEPT:
            actions["join"] = lambda: self.join_kept(conn, size // 100)
            actions["publish"] = lambda: self.publish_kept(conn, size, flag)
        if verb == "raise":
            raise RuntimeError("planned")
        if verb == "exit":
            raise SystemExit("planned")
        actions[verb]()

    def requested(self, conn: int, request: Request) -> None:
        kind = self.plans[0][0][1] if self.plans else 8 + len(self.world.requests) % 2
        if kind == 1:
            self.undecided.append((conn, request))
        elif kind == 2:
            self.world.reactor.hold(conn, accept(request), None, b"\x11\x94no", CAUSE_OF["not_permitted"], 0.1)
        elif kind == 3:
            self.world.reactor.respond(conn, BAD_REQUEST + b"z" * 300_000, 4)
        else:
            self.world.reactor.open(conn, accept(request), None, kind % 2, ("session", conn))
            for name in range(kind // 2):  # the odd ones speak JSON
                self.world.reactor.subscribe(conn, NAMES[name], name, ANY_PAYLOAD, True, name == 1)
            if kind > 5:
                self.join_kept(conn, kind % 4)
        self.act(conn)

    def message(self, conn: int, payload: bytes) -> bool:
        return self.act(conn)

    def too_slow(self, conn: int) -> bytes:
        self.act(conn)
        return TOO_SLOW

    def ended(self, conn: int) -> None:
        self.act(conn)

    # What happens.

    def peer(self, which: int) -> Peer:
        return self.world.peers[which % len(self.world.peers)]

    @rule(planned=st.lists(st.lists(plans, min_size=1, max_size=4), min_size=1, max_size=4))
    def plan(self, planned: list[list[Plan]]) -> None:
        self.plans.extend(planned)

    @rule(cut=st.integers(0, len(REQUEST)), rest=st.booleans(), early=st.booleans(), small=st.booleans())
    def connect(self, cut: int, rest: bool, early: bool, small: bool) -> None:
        whole = REQUEST + (frame(TEXT, b"early") if early else b"")
        peer = self.world.connect(whole[:cut], receive_buffer=4096 if small else None)
        if rest:
            self.world.turns(1)
            with suppress(OSError):
                peer.send(whole[cut:])

    @rule(count=st.integers(1, 4))
    def connect_whole(self, count: int) -> None:
        for _ in range(count):
            self.world.connect(REQUEST)
        self.world.turns(2)

    @precondition(lambda self: self.world.peers)
    @rule(which=st.integers(0, 99), sent=st.lists(frames, min_size=1, max_size=8), times=st.sampled_from([1, 1, 10]))
    def send(self, which: int, sent: list[bytes], times: int) -> None:
        with suppress(OSError):  # closed, or its socket is full
            self.peer(which).sock.send(b"".join(sent) * times)

    @precondition(lambda self: self.world.peers)
    @rule(which=st.integers(0, 99), count=st.integers(1, 5), how=ends, planned=st.lists(plans, min_size=1, max_size=4))
    def send_and_end(self, which: int, count: int, how: Callable[[Peer], None], planned: list[Plan]) -> None:
        """The end lies behind the messages when the callback of the first one runs."""
        self.plans.appendleft(planned)
        with suppress(OSError):
            self.peer(which).sock.send(frame(TEXT, b"hello") * count)
            how(self.peer(which))
        self.world.turns(1)

    @precondition(lambda self: self.world.peers)
    @rule(which=st.integers(0, 99), cut=frames, at=st.integers(1, 200))
    def send_cut(self, which: int, cut: bytes, at: int) -> None:
        with suppress(OSError):
            self.peer(which).sock.send(cut[:at])

    @precondition(lambda self: self.world.peers)
    @rule(which=st.integers(0, 99), size=st.sampled_from([100, 1 << 20]))
    def read(self, which: int, size: int) -> None:
        with suppress(OSError):
            self.peer(which).sock.recv(size)

    @precondition(lambda self: self.world.peers)
    @rule(which=st.integers(0, 99), how=ends)
    def end(self, which: int, how: Callable[[Peer], None]) -> None:
        with suppress(OSError):  # ended before
            how(self.peer(which))

    @rule(name=names, size=sizes, times=st.sampled_from([1, 30, 100]))
    def publish(self, name: int, size: int, times: int) -> None:
        for _ in range(times):
            if name == KEPT:
                self.publish_kept(0, size, True)
            else:
                self.world.hub.publish(NAMES[name], TEXT_KIND, b"p" * size)

    @rule(count=st.integers(1, 4))
    def turn(self, count: int) -> None:
        for _ in range(count):
            self.world.turns(1)
            self.run_replays()

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.reactor.advance(seconds)

    @precondition(lambda self: self.undecided)
    @rule(format=st.integers(0, 1))
    def decide_late(self, format: int) -> None:
        conn, request = self.undecided.pop()
        self.world.reactor.open(conn, accept(request), None, format, ("session", conn))

    @precondition(lambda self: self.world.requests)
    @rule(plan=plans)
    def act_between_turns(self, plan: Plan) -> None:
        verb, which, name, size, flag = plan
        if verb not in ("raise", "exit"):
            self.verb(verb, self.world.requests[-1 - which % len(self.world.requests)], name, size, flag)

    # The engine's side of the link.

    @precondition(lambda self: self.link)
    @rule()
    def attach(self) -> None:
        assert self.link is not None
        self.link.attach()

    @precondition(lambda self: self.link)
    @rule(count=st.sampled_from([1, 5, 40]), size=st.sampled_from([1, 100, 3000]), acked=st.booleans())
    def publish_raw(self, count: int, size: int, acked: bool) -> None:
        """Everybody who may publish by himself does, so that credit comes to an end."""
        assert self.link is not None
        self.link.attach()
        self.world.connect(REQUEST)
        self.world.turns(2)
        for peer in self.world.peers:
            with suppress(OSError):
                peer.sock.send(frame(TEXT, b"r" * size) * count)
        self.world.turns(1)
        self.link.read(1 << 20)
        if acked:
            self.link.say(self.link.record("ack", 0, 1, False), 0)
            self.world.turns(1)

    @precondition(lambda self: self.link)
    @rule(said=sayings, cut=st.sampled_from([0, 0, 0, 1, 50]))
    def engine_says(self, said: list[tuple[str, int, int, bool]], cut: int) -> None:
        assert self.link is not None
        self.link.say(b"".join(self.link.record(*each) for each in said), cut)
        self.world.turns(1)

    @precondition(lambda self: self.link)
    @rule(size=st.sampled_from([100, 1 << 20]))
    def engine_reads(self, size: int) -> None:
        assert self.link is not None
        self.link.read(size)

    @precondition(lambda self: self.link)
    @rule(read=st.booleans())
    def engine_goes(self, read: bool) -> None:
        """Read or not: unread bytes make a reset of it."""
        assert self.link is not None
        if read:
            self.link.read(1 << 20)
        self.link.end.close()


class AnyLink:
    """The handler of the link, and what stands in for the engine."""

    def __init__(self, machine: Anything, window: int) -> None:
        self.machine = machine
        self.reactor = machine.world.reactor
        self.ours, self.end = socket.socketpair()
        self.close()
        self.attached = self.downs = self.taken = self.taken_bytes = 0
        self.reactor.expect_link(self, window)

    def attach(self) -> None:
        if self.reactor.linked:
            return
        self.close()
        self.ours, self.end = socket.socketpair()
        for each in (self.ours, self.end):
            each.setblocking(False)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.rest, self.got = b"", b""
        self.taken = self.taken_bytes = 0
        self.reactor.attach_link(self.ours.fileno())
        self.attached += 1

    def close(self) -> None:
        self.ours.close()
        self.end.close()

    def record(self, what: str, name: int, size: int, flag: bool) -> bytes:
        channel, payload = NAMES[name], b"e" * size
        echo = 0 if flag else NO_ECHO
        if what == "odd":
            return (Record(ACK, number=1 << 40), Record(77), Record(PUBLISH, name=channel))[size % 3].pack()
        return {
            "message": Record(MESSAGE, TEXT_KIND, echo, self.conn(size), 0, size, channel, b',"x":1', payload),
            "kept": Record(MESSAGE, TEXT_KIND, echo | OFFSET, self.conn(size), 1, 1, NAMES[KEPT], b"", payload),
            "ack": Record(ACK, number=self.taken, value=self.taken_bytes),
            "missed": Record(MISSED, 0, OFFSET if flag else 0, number=size, name=channel),
            "call": Record(CALL, 1, number=size, name=channel, payload=payload),
            "reply": Record(REPLY, 0, ERROR if flag else 0, number=size, payload=payload),
        }[what].pack()

    def conn(self, size: int) -> int:
        known = self.machine.world.requests
        return known[size % len(known)] if known else 0

    def say(self, data: bytes, cut: int) -> None:
        if not self.reactor.linked or self.end.fileno() < 0:
            return
        self.rest += data
        with suppress(OSError):  # its socket is full, or it has been closed on our side
            self.rest = self.rest[self.end.send(self.rest[: max(1, len(self.rest) - cut)]) :]

    def read(self, size: int) -> None:
        """Counts the publishes of which the next ack tells."""
        if not self.reactor.linked or self.end.fileno() < 0:
            return
        with suppress(OSError):
            self.got += self.end.recv(size)
        while len(self.got) >= HEAD.size and len(self.got) >= (size := HEAD.unpack_from(self.got)[0]):
            (record,) = unpack(self.got[:size])
            assert record.type in (PUBLISH, CALL, REPLY)
            if record.type == PUBLISH:
                self.taken += 1
                self.taken_bytes += size
            self.got = self.got[size:]

    # What the reactor calls.

    def on_sequenced(
        self, name: bytes, kind: int, payload: bytes, extra: bytes, conn: int, echo: bool, offset: int, time_ms: int
    ) -> None:
        self.machine.publish_kept(conn, len(payload), echo)
        self.machine.act(conn)

    def on_acked(self, count: int) -> None:
        self.machine.act(self.conn(count))

    def on_missed(self, name: bytes, number: int, with_offset: bool) -> None:
        self.reactor.missed(name, None if with_offset else number)
        self.machine.act(self.conn(number))

    def on_call(self, verb: int, token: int, name: bytes, payload: bytes) -> None:
        self.reactor.link_reply(token, payload[:100], False)
        self.machine.act(self.conn(token))

    def on_reply(self, token: int, payload: bytes, failed: bool) -> None:
        self.machine.act(self.conn(token))

    def on_down(self, unknown: list[int]) -> None:
        self.downs += 1
        for conn in unknown:
            self.reactor.close(conn, BYE, GOING_AWAY)
        self.machine.act(self.conn(self.downs))


TestAnything = Anything.TestCase
TestAnything.settings = settings(stateful_step_count=60)
