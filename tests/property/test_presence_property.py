"""Presence against a naive model: sessions that come, go, move and lose their worker, while time passes.

The model knows each session's channel, user and owner, and when each member was last seen; it looks at everything after
every step and keeps no timers. Invariant: who is listed is who the model says; the events, added up, say the same once
they are all told; no event tells what was told before; nothing is kept of those who left.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.config.schema import Limits
from broker.engine.base import Member
from broker.engine.presence import Presence

CHANNELS = (b"a", b"b")
USERS = (None, "ann", "bob")
SESSIONS = tuple(f"s{number}" for number in range(6))
LEAVE = 10.0
BATCH = 3.0  # long enough for returns between a leave and its telling

sessions = st.sampled_from(SESSIONS)
channels = st.sampled_from(CHANNELS)


class PresenceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        limits = Limits(presence_leave_seconds=LEAVE, presence_batch_seconds=BATCH, presence_event_members=2)
        self.book = Presence(limits)
        self.now = 0.0
        self.links = [0, 1]  # owners in use, by worker
        self.made = 2
        # (channel, session) -> (member's name, owner); (channel, name) -> when its last session was seen.
        self.seats: dict[tuple[bytes, str], tuple[bytes, int]] = {}
        self.seen: dict[tuple[bytes, bytes], float] = {}
        self.counts = dict.fromkeys(CHANNELS, 0)
        self.known: dict[bytes, set[bytes]] = {channel: set() for channel in CHANNELS}
        self.all_named = True

    def name(self, session: str) -> tuple[str | None, bytes]:
        user = USERS[SESSIONS.index(session) % len(USERS)]
        return user, (user or session).encode()

    def here(self, channel: bytes, now: float) -> set[bytes]:
        """Seated, or seen within the leave."""
        seated = {name for (where, _), (name, _) in self.seats.items() if where == channel}
        return seated | {name for (where, name), at in self.seen.items() if where == channel and now < at + LEAVE}

    def unseat(self, channel: bytes, session: str) -> None:
        name, _ = self.seats.pop((channel, session))
        self.seen[channel, name] = self.now

    def run_due(self) -> None:
        while (due := self.book.next_due()) is not None and due <= self.now:
            for channel, event in self.book.run(self.now):
                named = set(event.members)
                assert len(named) == len(event.members) <= 2
                changed = len(named) + event.more
                assert changed > 0
                if event.kind == "join":
                    assert not named & self.known[channel], "told twice that somebody joined"
                    self.known[channel] |= named
                    self.counts[channel] += changed
                else:
                    assert not self.all_named or named <= self.known[channel], "a leave of somebody nobody heard of"
                    self.known[channel] -= named
                    self.counts[channel] -= changed
                self.all_named = self.all_named and event.more == 0
                # Of what is due at one instant, some is done before a batch and some behind it.
                assert len(self.here(channel, self.now)) <= event.count <= len(self.here(channel, self.now - 0.1))

    @rule(channel=channels, session=sessions, worker=st.sampled_from((0, 1)))
    def enter(self, channel: bytes, session: str, worker: int) -> None:
        user, name = self.name(session)
        self.book.enter(channel, Member(session, user, name), self.links[worker], self.now)
        self.seats[channel, session] = (name, self.links[worker])

    @rule(channel=channels, session=sessions, worker=st.sampled_from((0, 1)))
    def exit(self, channel: bytes, session: str, worker: int) -> None:
        self.book.exit(channel, session, self.links[worker], self.now)
        seat = self.seats.get((channel, session))
        if seat is not None and seat[1] == self.links[worker]:
            self.unseat(channel, session)

    @rule(worker=st.sampled_from((0, 1)))
    def owner_gone(self, worker: int) -> None:
        owner = self.links[worker]
        self.book.owner_gone(owner)
        self.made += 1
        self.links[worker] = self.made
        for channel, session in [place for place, (_, of) in self.seats.items() if of == owner]:
            self.unseat(channel, session)
        self.run_due()

    @rule(seconds=st.sampled_from((0.5, 1.0, 3.0, 7.0, 10.0)))
    def pass_time(self, seconds: float) -> None:
        """Stops at each thing due, as a host's alarm would."""
        until = self.now + seconds
        while (due := self.book.next_due()) is not None and due <= until:
            self.now = max(self.now, due)
            self.run_due()
        self.now = until

    @invariant()
    def whoever_is_here_is_listed(self) -> None:
        for channel in CHANNELS:
            present = self.book.present(channel)
            assert set(present.members) == self.here(channel, self.now)
            assert (present.count, present.truncated) == (len(present.members), False)

    def teardown(self) -> None:
        for worker in (0, 1):
            self.owner_gone(worker)
        self.pass_time(LEAVE)
        self.pass_time(BATCH)
        assert self.counts == dict.fromkeys(CHANNELS, 0), "what was told of joins and leaves adds up"
        assert self.book.idle


TestPresence = PresenceMachine.TestCase
TestPresence.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
