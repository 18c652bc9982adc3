"""The engine: the one place that gives every publish its place in its channel's order. The contract, in prose.

An engine serves one worker in its process (`memory`), several workers of a host (`memory` behind links), or several
hosts. One contract suite, tests/contract, runs over all of them. Who talks: the node calls the verbs of `Engine`, the
engine calls those of `Sink`, which is the node. A verb that has to ask somebody returns an awaitable; callers are ready
for both from the first day.

Order. An engine gives one total order per channel. It hands each publication to `Sink.deliver` in that order, on every
worker the same, and a publish begun after another's receipt never comes before it. Publications of one connection keep
their order. Nothing is delivered before it is sequenced: delivering locally first reordered acked messages (measured).

Receipt. A receipt means: sequenced, and on its way to every subscriber. An exception means that nobody gets it.
Whatever an engine cannot decide (the link broke after the request was sent) is EngineError with `word`
"outcome_unknown"; the same `message_id` again is then safe: for MESSAGE_ID_SECONDS a repeated id of a channel is
sequenced once, and both get the receipt of the first.

Credit. A publish that the engine cannot take yet waits; the reactor does not read from a connection whose command
waits, which is how pressure reaches the publisher. Only publishes need credit; joins, leaves and answers never wait
for it. Both ends of a link keep reading whatever happens to their writing.

Interest. `join` says that this worker wants a channel; from its return on every publication of that channel reaches
`deliver`, and `Joined.head` is the offset just before the first of them. Interest is kept by the worker (interest.py),
not here: the engine hears of the first subscriber and, after the last one has been gone for a while, `leave`. Joining a
channel twice is allowed and only answers again. A direct engine is not asked to join live channels. When a link is
lost, the engine fails the joins under way before it has the node join everything again on the next.

History. A publication that carries a `HistoryRule` gets an offset, one higher than the channel's last, and is kept
within the rule. Offsets are never reused: a channel that was evicted and comes back starts above the highest offset
ever given to any evicted channel. The epoch belongs to the data: another epoch means that what was kept is gone.
A worker answers replays from a ring of its own, made of `Joined.window` and what is delivered; a direct engine hands
over its own ring, `Joined.ring`, which stays in place until `leave`. A client may come from another worker with a
position that has not been delivered here yet: joining again answers with a head that is not before it.

Losses. An engine that cannot reach a worker for a while says so when it can again: `Sink.missed`, with the number of
publications that were not delivered, or None for unknown. With history the node reads on from its last offset.
A link has a generation; after a new one everything that was joined is joined again, and `missed` comes for each
channel that has no history.

Delivery. `deliver` only queues: it never blocks, and never calls the engine.

Presence has rules of its own, beside its verbs at the end of this module.
"""

from collections.abc import Awaitable, Iterable
from typing import Literal, NamedTuple, Protocol

import msgspec

from broker.native._linked import Linked

# How long an engine remembers the `message_id`s of a channel. Centrifugo keeps them 5 minutes as well.
MESSAGE_ID_SECONDS = 300.0


class HistoryRule(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a channel; whichever bound is met first. `size` in payload bytes."""

    count: int
    seconds: float
    size: int


class Publication(msgspec.Struct, frozen=True, gc=False):
    """A validated payload on its way. `kind` as in `broker.native._hub` (0 JSON, 1 text, 2 binary).

    `extra` is more members of the JSON envelope, each with a leading comma. `conn` is the publishing connection, 0 =
    none or not of this worker; without `echo` it gets no copy. The engine sets `offset` and `epoch` (with `history`)
    and `time_ms` (Unix time; 0 = when it is delivered).
    """

    channel: bytes
    kind: int
    payload: bytes
    extra: bytes = b""
    conn: int = 0
    echo: bool = True
    message_id: str | None = None
    history: HistoryRule | None = None
    offset: int = 0
    epoch: str = ""
    time_ms: int = 0


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What is known once a publication is sequenced. `subscriptions` it went to on this worker; None = not known."""

    subscriptions: int | None = None
    position: str | None = None


class Joined(msgspec.Struct, frozen=True, gc=False):
    """Answer to a join. `window`: what is kept of the channel up to `head`, oldest first; empty without history.

    `ring`: instead of a window, what a direct engine keeps and goes on filling.
    """

    epoch: str = ""
    head: int = 0
    window: tuple[Publication, ...] = ()
    ring: "Retained | None" = None


class Holdings(NamedTuple):
    """What an engine holds now, in numbers. `presence_places`: of limits.presence_members; `history_evicted`: channels
    forgotten for want of room, since its start.
    """

    history_bytes: int = 0
    history_messages: int = 0
    history_channels: int = 0
    history_evicted: int = 0
    presence_places: int = 0


class Retained(Protocol):
    """A ring; see ring.py. Its offsets go from `start` (exclusive) to `head` (inclusive)."""

    epoch: str
    head: int

    @property
    def start(self) -> int: ...
    @property
    def position(self) -> str: ...
    def trim(self, rule: HistoryRule, now_ms: int) -> None: ...
    def after(self, cursor: int, most_count: int, most_bytes: int) -> list[Publication]: ...
    def cursor_of(self, since: str | None, last: int | None) -> tuple[int, bool]: ...


class EngineError(Exception):
    """The publication was not sequenced, or nobody knows; `word` is a word of `broker.protocol.errors.ERRORS`."""

    def __init__(self, word: str) -> None:
        self.word = word
        super().__init__(word)


# Presence: who is in a channel.
#
# Members. `enter` says that a session is in a channel, `exit` that it no longer is; a session that enters again where
# it is already takes over that place, with its new `body` and its new worker. Sessions of one user are one member. An
# engine of several workers files each session under the link it came through. When that link ends, all of its sessions
# have left at that moment; the same session that enters through another link has not.
#
# Order and losses. Both verbs only queue, need no credit and cannot fail; calls of one worker keep their order. Whoever
# speaks for a worker on a link enters everybody of `Sink.members` anew after each new generation of the link, before
# anything else.
#
# Events. `Sink.presence` hears of members, not of sessions, on every worker that joined the channel: a `join` with a
# member's first session, a `leave` when its last one has been gone for a while. Whoever returns before that causes
# nothing. They come in batches, so that N members who come at once cause a number of events that does not depend on N.
# Events of a channel come in order; between them and its publications there is none. An answer to `presence` may be
# ahead of the events by one batch: a join of somebody listed and a leave of somebody not listed say nothing new.
# An engine that could not tell a worker of joins or leaves of a channel (it did not read, its link was made anew) says
# `missed` with 0, unless it says more anyway: no publication is lost, but the list of members may be wrong.


class Member(msgspec.Struct, frozen=True, gc=False):
    """A session in a channel. `body` is what others are shown of it: one JSON object, passed on as it is.

    `user` None: nobody knows who it is, so the session is a member by itself.
    """

    session: str
    user: str | None
    body: bytes


class PresenceEvent(msgspec.Struct, frozen=True, gc=False):
    """Members that joined or left since the last event of this kind: some by name, so many more without.

    `count` is how many there are after it.
    """

    kind: Literal["join", "leave"]
    members: tuple[bytes, ...]
    more: int
    count: int


class Present(msgspec.Struct, frozen=True, gc=False):
    """Answer to `presence`; `truncated`: there are more members than `members` lists."""

    members: tuple[bytes, ...]
    count: int
    truncated: bool


# What a question to all workers waits for the slowest of them.
ASK_SECONDS = 2.0


class Sink(Protocol):
    """Who hears from an engine: the node of a worker."""

    def deliver(self, publication: Publication) -> int:
        """The next publication of its channel. Returns the deliveries caused on this worker."""

    def missed(self, channel: bytes, count: int | None) -> None:
        """So many publications of a joined channel were not delivered here; None = nobody knows, 0 = only joins
        or leaves.
        """

    def presence(self, channel: bytes, event: PresenceEvent) -> None:
        """Members joined or left. Only queues."""

    def members(self) -> Iterable[tuple[bytes, Member]]:
        """Everybody of this worker who is in a channel, as it was entered."""

    def kept(self, channel: bytes) -> tuple[str, int]:
        """Epoch and offset up to which this worker has the channel's history; ("", 0): nothing."""

    def joined(self, channel: bytes, joined: Joined) -> None:
        """The answer to a join that was waited for, told before anything that follows it is delivered; the awaitable
        of `join` is only ready later.
        """

    async def answer(self, question: bytes) -> bytes:
        """What this worker says to a question that was put to all of them."""

    def outcome_unknown(self, conns: list[int]) -> None:
        """The link broke; these raw connections published something nobody knows the fate of."""

    def linked(self, again: bool) -> None:
        """Publishes can be sequenced; `again`: on a new link, so what was joined has to be joined anew."""


class Engine(Protocol):
    # True: native code takes raw messages of live channels by itself: to the hub if the engine is in this process, else
    # to the link that the engine has set up in `start`.
    direct: bool
    # True: in this process, so nobody has to be told which live channels are wanted.
    local: bool

    def start(self, native: Linked) -> None:
        """Once, inside the running loop, before the first connection."""

    async def usable(self) -> None:
        """Returns once publishes can be sequenced; then, not before, the worker accepts."""

    async def stop(self) -> None:
        """Once, after the last one."""

    def publish(self, publication: Publication) -> Receipt | Awaitable[Receipt]:
        """Sequences and delivers. Raises EngineError."""

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined | Awaitable[Joined]:
        """Registers interest; see above. Raises EngineError."""

    def leave(self, channel: bytes) -> None:
        """Interest is over. Publications may still come for a moment, and are of no use."""

    def enter(self, channel: bytes, member: Member) -> None:
        """A session is in a channel; see Presence above."""

    def exit(self, channel: bytes, session: str) -> None:
        """It no longer is. The channel may be one that it never entered."""

    def ask_all(self, question: bytes) -> Awaitable[list[bytes]]:
        """Puts a question or an order to every worker, this one too. Returns the answers of those that gave one within
        ASK_SECONDS, in no order. What is asked is the gateway's (session look-up, disconnect, channel list). Raises
        EngineError.
        """

    def presence(self, channel: bytes) -> Present | Awaitable[Present]:
        """Who is in a channel. Raises EngineError."""

    def holdings(self) -> Holdings | None:
        """Of an engine in this process; None: it is elsewhere, and says so itself."""
