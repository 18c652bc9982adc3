"""The verbs of one worker: publish, subscribe, unsubscribe.

Called by the gateway (and by whatever else lets somebody publish). It holds what is true of a channel, whoever asks:
which payloads it takes, what a full queue does. It asks nothing about permissions, which are the gateway's, and knows
no socket.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from broker.auth.patterns import PatternTable
from broker.config.schema import ChannelPolicy
from broker.engine.base import Engine, HistoryRule, Joined, Publication, Receipt, Sink
from broker.engine.interest import Interest, Interests
from broker.native._json import PROBLEMS, check
from broker.native._queue import POLICIES
from broker.native._reactor import Reactor

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
        interest_linger_seconds: float = 15.0,
        join_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._engine = engine(self)
        self.interests = Interests(
            self._engine,
            self._subscribers,
            self._joined,
            linger_seconds=interest_linger_seconds,
            join_seconds=join_seconds,
            clock=clock,
        )
        self._patterns = PatternTable(channels)
        # Channels in use, by names that were checked: whoever finds his name here need not check it again.
        self.known: dict[str, Channel] = {}
        self._max_json_depth = max_json_depth
        self._rejoining: asyncio.Task[None] | None = None
        # Called with raw connections that were not given everything of a channel. Set by the worker.
        self.on_hole: Callable[[list[int]], None] = lambda conns: None
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
            policy = self._patterns.match(name) or ChannelPolicy()
            known = Channel(name.encode(), POLICIES.index(policy.queue), PAYLOADS.index(policy.payload))
            self.known[name] = known
        return known

    def publish(
        self, channel: Channel, kind: int, payload: bytes, extra: bytes = b"", conn: int = 0, echo: bool = True
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
        return self._engine.publish(Publication(channel.name, kind, payload, extra, conn, echo))

    def join(self, channel: Channel) -> Interest | None:
        """Before somebody subscribes. None: all that is published in the channel comes here; otherwise await it.

        Raises EngineError, as awaiting does.
        """
        return self.interests.join(channel.name, channel.history)

    def _subscribers(self, name: bytes) -> int:
        return self._reactor.subscribers(name)

    def _joined(self, name: bytes, rule: HistoryRule | None, joined: Joined, again: bool) -> None:
        """Joined again, on a new link: whatever was published between the two is lost for a live channel."""
        if again:
            self.missed(name, None)

    def subscribe(self, conn: int, channel: Channel, *, receives: bool, sends: bool) -> bool:
        """Joins; False = the connection is gone, or is subscribed already."""
        return self._reactor.subscribe(conn, channel.name, channel.policy, channel.payload, receives, sends)

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
        `gap`; raw ones cannot be told, so `on_hole` ends them: never a silent hole while connected.
        """
        raw = self._reactor.missed(channel, count)
        if raw:
            self.on_hole(raw)

    def outcome_unknown(self, conns: list[int]) -> None:
        """What an engine calls whose link broke: these raw connections had publishes under way."""
        self.on_unknown(conns)

    def linked(self, again: bool) -> None:
        """What an engine calls that has a link; after a new one nothing of before can be relied upon."""
        if again:
            self._rejoining = asyncio.get_running_loop().create_task(self.interests.rejoin())
