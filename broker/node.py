"""The verbs of one worker: publish, subscribe, unsubscribe, enter, exit.

Called by the gateway (and by whatever else lets somebody publish). It holds what is true of a channel, whoever asks:
which payloads it takes, what a full queue does. It asks nothing about permissions, which are the gateway's, and knows
no socket.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from broker.auth.patterns import PatternTable
from broker.config.schema import ChannelPolicy
from broker.engine.base import (
    Engine,
    HistoryRule,
    Holdings,
    Joined,
    Member,
    PresenceEvent,
    Present,
    Publication,
    Receipt,
    Sink,
)
from broker.engine.interest import Interest, Interests
from broker.engine.members import Members
from broker.engine.ring import position_of
from broker.native._json import PROBLEMS, check
from broker.native._queue import POLICIES
from broker.native._reactor import Reactor
from broker.protocol import events
from broker.recovery.replays import Replays, envelope
from broker.recovery.shelves import Shelves

KIND_JSON, KIND_TEXT, KIND_BINARY = 0, 1, 2
PAYLOADS = ("any", "json", "text", "binary")

# How many channel names keep their settings at hand; beyond it the table starts anew, which costs one look-up each.
# 170 bytes an entry: 65 536 of names that came once were 9 MiB that looked like a leak (loadtests/churn.py).
CACHED_CHANNELS = 16_384

_PROBLEM_TEXTS = dict(PROBLEMS.values())


class Channel(msgspec.Struct, frozen=True, gc=False):
    """What holds for one channel, in the numbers of the native core."""

    name: bytes
    policy: int
    payload: int
    history: HistoryRule | None = None
    presence: bool = False
    raw_gap_ignored: bool = False
    # Publishes a second of one connection; 0 = no bound.
    rate: float = 0.0
    # Its pattern's place among the counters.
    pattern: int = 0

    @property
    def native(self) -> bool:
        """Whether the native core may publish raw messages in it: they need no place in a history, and no counting."""
        return self.history is None and not self.rate


class Begun(msgspec.Struct, frozen=True, gc=False):
    """Where a subscription begins. `recovered`: whether all that was asked for follows; None = nothing was."""

    position: str | None = None
    recovered: bool | None = None


class Extract(msgspec.Struct, frozen=True, gc=False):
    """Some of a channel's history. `position` is after the last of them; `more` have been published since."""

    publications: list[Publication]
    position: str
    complete: bool
    more: bool


class PayloadError(Exception):
    """A payload that could not be delivered in every format, or that its channel does not take. `word` of ERRORS."""

    def __init__(self, word: str, text: str | None = None) -> None:
        self.word = word
        self.text = text
        super().__init__(text or word)


class Node:
    """The sink of its engine, which `engine` makes for it."""

    def __init__(
        self,
        reactor: Reactor,
        engine: Callable[[Sink], Engine],
        channels: dict[str, ChannelPolicy],
        max_json_depth: int,
        *,
        most_read_bytes: int = 262_144,
        history_bytes: int = 67_108_864,
        interest_linger_seconds: float = 15.0,
        join_seconds: float = 10.0,
        pattern_places: Mapping[str, int] = MappingProxyType({}),
        count: Callable[[str], None] = lambda counter: None,
        clock: Callable[[], float] = time.monotonic,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._engine = engine(self)
        self.interests = Interests(
            self._engine,
            self._subscribers,
            self._joined,
            self._gone,
            linger_seconds=interest_linger_seconds,
            join_seconds=join_seconds,
            clock=clock,
        )
        self._members = Members(self._engine)
        self._unix_time = unix_time
        self._most_read_bytes = most_read_bytes
        self._shelves = Shelves(self._fan_out, self._tell_missed, self.interests.again, history_bytes)
        # Closes a connection whose replay cannot go on, with a word of the close codes. Set by the worker.
        self.on_cut: Callable[[int, str], None] = lambda conn, word: None
        self.replays = Replays(
            reactor, self._shelves, lambda conn, word: self.on_cut(conn, word), _call_soon, clock, self._now_ms
        )
        reactor.on_room = self.replays.on_room
        self._patterns = PatternTable(
            {pattern: (policy, pattern_places.get(pattern, 0)) for pattern, policy in channels.items()}
        )
        self._count = count
        # Channels in use, by names that were checked: whoever finds his name here need not check it again.
        self.known: dict[str, Channel] = {}
        self._max_json_depth = max_json_depth
        self._rejoining: asyncio.Task[None] | None = None
        # Called with raw connections that were not given everything of a channel. Set by the worker.
        self.on_hole: Callable[[list[int]], None] = lambda conns: None
        # Answers what another worker asks all of them. Set by the worker.
        self.on_question: Callable[[bytes], Awaitable[bytes]] = _nobody_answers
        # Called with raw connections whose last publishes have an unknown fate. Set by the worker.
        self.on_unknown: Callable[[list[int]], None] = lambda conns: None

    @property
    def direct(self) -> bool:
        """Whether the native core may publish raw messages by itself."""
        return self._engine.direct

    def channel(self, name: str) -> Channel:
        """Settings of a channel; the name is checked already."""
        known = self.known.get(name)
        if known is None:
            if len(self.known) >= CACHED_CHANNELS:
                self.known.clear()
            policy, place = self._patterns.match(name) or (ChannelPolicy(), 0)
            known = _channel(name, policy, place)
            self.known[name] = known
        return known

    def publish(
        self,
        channel: Channel,
        kind: int,
        payload: bytes,
        extra: bytes = b"",
        conn: int = 0,
        echo: bool = True,
        message_id: str | None = None,
    ) -> Receipt | Awaitable[Receipt]:
        """Checks the payload once, for every variant, and hands it to the engine. Raises PayloadError, EngineError.

        The caller has decoded text from UTF-8 or encodes it now: `payload` of kind text is valid UTF-8.
        """
        if channel.payload and channel.payload - 1 != kind:
            raise PayloadError("wrong_payload_kind", f"the channel takes {PAYLOADS[channel.payload]} payloads only")
        if kind == KIND_JSON:
            problem = check(payload, self._max_json_depth)
            if problem is not None:
                raise PayloadError("bad_payload", _PROBLEM_TEXTS[problem[0]])
        receipt = self._engine.publish(
            Publication(channel.name, kind, payload, extra, conn, echo, message_id, channel.history)
        )
        self._reactor.count_message(channel.pattern)
        return receipt

    def join(self, channel: Channel, since: str | None = None) -> Awaitable[None] | None:
        """Before somebody subscribes, or resumes `since` a position. None: all that is published in the channel comes
        here, and the position, if it is one of the channel's, has; otherwise await it.

        Raises EngineError, as awaiting does.
        """
        interest = self.interests.join(channel.name, channel.history)
        if channel.history is None:
            return interest
        if interest is not None and channel.name not in self._shelves:
            self._shelves.expect(channel.name)
        if since is None or (interest is None and self._shelves.knows(channel.name, since)):
            return interest
        return _Resuming(interest, self.interests, self._shelves, channel.name, since)

    def _subscribers(self, name: bytes) -> int:
        return self._reactor.subscribers(name)

    def _joined(self, name: bytes, rule: HistoryRule | None, joined: Joined, again: bool) -> None:
        """Joined again, on a new link: whatever was published between the two is lost for a live channel."""
        if rule is not None:
            self._shelves.joined(name, rule, joined)
        elif again:
            self.missed(name, None)

    def _gone(self, name: bytes) -> None:
        self._shelves.left(name)

    def _now_ms(self) -> int:
        return int(self._unix_time() * 1000)

    def subscribe(
        self,
        conn: int,
        channel: Channel,
        *,
        receives: bool,
        sends: bool,
        since: str | None = None,
        last: int | None = None,
    ) -> Begun | None:
        """Joins; None = the connection is gone, or is subscribed already. Before that, `join` has been waited for.

        Messages that are to be replayed follow behind whatever is sent to the connection in this call of the loop.
        """
        asked = since is not None or last is not None
        shelf = self._shelves.get(channel.name) if receives else None
        name, policy, payload, pattern = channel.name, channel.policy, channel.payload, channel.pattern
        sends = sends and channel.native
        if shelf is None:
            done = self._reactor.subscribe(conn, name, policy, payload, receives, sends, pattern)
            if done and asked:
                self._count("n_resumes_incomplete")
            return Begun(None, False if asked else None) if done else None
        ring = shelf.ring
        ring.trim(shelf.rule, self._now_ms())
        cursor, complete = ring.cursor_of(since, last)
        if cursor == ring.head:
            done = self._reactor.subscribe(conn, name, policy, payload, receives, sends, pattern)
        else:
            done = self._reactor.subscribe_behind(conn, name, policy, payload, sends, pattern)
            if done:
                self.replays.start(conn, name, cursor)
        if done and asked:
            self._count("n_resumes_recovered" if complete else "n_resumes_incomplete")
        return Begun(position_of(ring.epoch, cursor), complete if asked else None) if done else None

    def read(self, channel: Channel, since: str | None, limit: int) -> Extract | None:
        """The next messages after a position, or the last ones; None = the channel keeps none. After `join`."""
        shelf = self._shelves.get(channel.name)
        if shelf is None:
            return None
        ring = shelf.ring
        ring.trim(shelf.rule, self._now_ms())
        cursor, complete = ring.cursor_of(since, None if since is not None else limit)
        if not complete:
            cursor = ring.start
        found = ring.after(cursor, limit, self._most_read_bytes)
        end = found[-1].offset if found else cursor
        return Extract(found, position_of(ring.epoch, end), complete, end < ring.head)

    def holdings(self) -> Holdings | None:
        """What the engine holds, if it is in this process."""
        return self._engine.holdings()

    def unsubscribe(self, conn: int, name: str) -> bool:
        """Leaves; False = was not subscribed."""
        return self._reactor.unsubscribe(conn, name.encode())

    def start(self) -> None:
        """Once, inside the running loop, before the first connection."""
        self._engine.start(self._reactor)

    async def usable(self) -> None:
        """Returns once publishes can be sequenced."""
        await self._engine.usable()

    async def stop(self) -> None:
        """After the last one."""
        if self._rejoining is not None:
            self._rejoining.cancel()
            await asyncio.gather(self._rejoining, return_exceptions=True)
        await self._engine.stop()

    def deliver(self, publication: Publication) -> int:
        """What the engine calls, in its order. Returns the deliveries caused on this worker; only queues them."""
        if publication.offset:
            return self._shelves.deliver(publication)
        return self._reactor.publish(
            publication.conn,
            publication.channel,
            publication.kind,
            publication.payload,
            publication.extra,
            publication.echo,
        )

    def missed(self, channel: bytes, count: int | None) -> None:
        """What the engine calls when this worker was not given publications of a channel. JSON subscribers get a
        `gap`; raw ones cannot be told, so `on_hole` ends them: never a silent hole while connected. Lost events
        (0) are no hole to those who hear none. With history the hole is read from the engine instead.
        """
        shelf = self._shelves.get(channel)
        if shelf is not None and shelf.own is not None:
            self.interests.again(channel)
        else:
            self._tell_missed(channel, count)

    def _fan_out(self, publication: Publication) -> int:
        return self._reactor.publish_kept(
            publication.conn,
            publication.channel,
            publication.kind,
            publication.payload,
            envelope(publication),
            publication.echo,
            publication.offset,
            publication.time_ms,
        )

    def _tell_missed(self, channel: bytes, count: int | None) -> None:
        raw = self._reactor.missed(channel, count)
        if raw and count != 0 and not self.channel(channel.decode()).raw_gap_ignored:
            self.on_hole(raw)

    def kept(self, channel: bytes) -> tuple[str, int]:
        """What an engine asks that only wants to tell what is missing."""
        shelf = self._shelves.get(channel)
        return ("", 0) if shelf is None else (shelf.ring.epoch, shelf.ring.head)

    def joined(self, channel: bytes, joined: Joined) -> None:
        """What an engine calls that made a join wait, as soon as its answer is there."""
        self.interests.answered(channel, joined)

    def ask_all(self, question: bytes) -> Awaitable[list[bytes]]:
        """Puts a question of the gateway to every worker; their answers. Raises EngineError."""
        return self._engine.ask_all(question)

    async def answer(self, question: bytes) -> bytes:
        """What an engine asks for another worker."""
        return await self.on_question(question)

    def outcome_unknown(self, conns: list[int]) -> None:
        """What an engine calls whose link broke: these raw connections had publishes under way."""
        self.on_unknown(conns)

    def linked(self, again: bool) -> None:
        """What an engine calls that has a link; after a new one nothing of before can be relied upon."""
        if again:
            self._rejoining = asyncio.get_running_loop().create_task(self.interests.rejoin())

    # Presence.

    def enter(self, channel: Channel, session: str, user: str | None, info: bytes | None) -> None:
        """A session has subscribed. Whether that makes it a member is the channel's setting."""
        if channel.presence:
            self._members.enter(channel.name, Member(session, user, events.member(session, user, info)))

    def exit(self, name: str, session: str) -> None:
        """A session has unsubscribed."""
        self._members.exit(name.encode(), session)

    def end(self, session: str) -> None:
        """A session is over."""
        self._members.end(session)

    def present(self, channel: Channel) -> Present | Awaitable[Present]:
        """Who is in a channel with presence. Raises EngineError."""
        return self._engine.presence(channel.name)

    def presence(self, channel: bytes, event: PresenceEvent) -> None:
        """What the engine calls: all JSON subscribers hear it, each the same frame. Raw ones have no events."""
        self._reactor.tell(
            channel, events.members_changed(event.kind, channel.decode(), event.members, event.more, event.count)
        )

    def members(self) -> Iterable[tuple[bytes, Member]]:
        """What an engine asks for that has to be told everything again."""
        return self._members


async def _nobody_answers(question: bytes) -> bytes:
    raise LookupError("nobody here answers questions")


class _Resuming:
    """Waits until the history of a channel reaches a position, or the engine has said that it does not.

    A question that was under way already may have been answered before the client got that position at another worker;
    one that is asked after it has ended was asked later.
    """

    __slots__ = ("_interest", "_interests", "_name", "_shelves", "_since")

    def __init__(
        self, interest: Interest | None, interests: Interests, shelves: Shelves, name: bytes, since: str
    ) -> None:
        self._interest = interest
        self._interests = interests
        self._shelves = shelves
        self._name = name
        self._since = since

    def __await__(self) -> Generator[Any, None, None]:
        if self._interest is not None:
            yield from self._interest.__await__()
        if not self._shelves.knows(self._name, self._since):
            interest = self._interests.refresh(self._name)
            if interest is not None:
                yield from interest.__await__()


def _channel(name: str, policy: ChannelPolicy, pattern: int) -> Channel:
    history = None
    if policy.history_count:
        history = HistoryRule(policy.history_count, policy.history_seconds, policy.history_bytes)
    queue = policy.queue
    if queue == "auto":
        queue = "disconnect" if history is None else "catch_up"
    return Channel(
        name.encode(),
        POLICIES.index(queue),
        PAYLOADS.index(policy.payload),
        history,
        policy.presence,
        policy.raw_gap == "ignore",
        policy.messages_per_second,
        pattern,
    )


def _call_soon(callback: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_soon(callback)
