"""Questions and orders that concern sessions wherever they are: disconnect, look up, subscribe, list channels, and
which are busiest (top.py).

Asked at any worker by the HTTP API, put to all of them through the engine (`Engine.ask_all`), answered by each
for itself and added up by whoever asked. The sessions of a worker are looked through a page at a time, because a
hundred thousand at once would hold its loop.
"""

import asyncio
from collections.abc import Callable

import msgspec

from broker.api.bodies import BusyChannel, ChannelKey, SessionKey, SlowSession
from broker.api.bodies import SessionInfo as Found
from broker.engine.base import EngineError
from broker.gateway.session import Session
from broker.gateway.top import Top, TopChannels, TopSessions
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.node import Node
from broker.protocol import events

# Places of the table of connections looked at before others have their turn; as in the drain, half a millisecond.
PAGE_PLACES = 4096
# Channels of one worker in an answer; more than anybody reads, less than a link notices.
MOST_CHANNELS = 10_000


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """Ends the session of this id, or all of this user; answered with how many."""

    session: str | None = None
    user: str | None = None


class FindSessions(msgspec.Struct, frozen=True, tag="sessions"):
    """The session of this id, those of this user, or everybody's: `most` of each worker at the most."""

    session: str | None = None
    user: str | None = None
    most: int = 100


class ListChannels(msgspec.Struct, frozen=True, tag="channels"):
    """Channels that somebody is subscribed to and that begin with `prefix`; with how many receive."""

    prefix: str = ""


class SubscribeUser(msgspec.Struct, frozen=True, tag="subscribe"):
    """Subscribes all sessions of this user; answered with how many of them had not all of the channels."""

    user: str
    channels: list[str]


class UnsubscribeUser(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Likewise; answered with how many of them had one of the channels."""

    user: str
    channels: list[str]


Question = Disconnect | FindSessions | ListChannels | SubscribeUser | UnsubscribeUser | TopChannels | TopSessions
_question = msgspec.msgpack.Decoder(Question)
_encode = msgspec.msgpack.Encoder().encode


class Control:
    """`end(conn, word)` ends a session with the code of a word. `max_channels` of one connection."""

    def __init__(
        self, reactor: Reactor, hub: Hub, node: Node, end: Callable[[int, str], None], max_channels: int
    ) -> None:
        self._reactor = reactor
        self._hub = hub
        self._node = node
        self._end = end
        self._max_channels = max_channels
        self._top = Top(reactor, hub, node, self._describe)

    # For whoever asks.

    async def disconnect(self, session: str | None = None, user: str | None = None) -> int:
        """How many sessions were ended. Raises EngineError."""
        return await self._count(Disconnect(session, user))

    async def sessions(self, session: str | None = None, user: str | None = None, most: int = 100) -> list[Found]:
        """The session of this id, or those of this user, or some of all. Raises EngineError."""
        answers = await self._node.ask_all(_encode(FindSessions(session, user, most)))
        return [found for answer in answers for found in msgspec.msgpack.decode(answer, type=list[Found])][:most]

    async def channels(self, prefix: str = "") -> dict[str, int]:
        """Channel to receiving subscriptions, of all workers. Raises EngineError."""
        total: dict[str, int] = {}
        for answer in await self._node.ask_all(_encode(ListChannels(prefix))):
            for name, count in msgspec.msgpack.decode(answer, type=dict[str, int]).items():
                total[name] = total.get(name, 0) + count
        return total

    async def busiest(self, by: ChannelKey, most: int) -> list[BusyChannel]:
        """Raises EngineError."""
        return await self._top.channels(by, most)

    async def slowest(self, by: SessionKey, most: int) -> list[SlowSession]:
        """Raises EngineError."""
        return await self._top.sessions(by, most)

    async def subscribe(self, user: str, channels: list[str]) -> int:
        """Names that are checked. Raises EngineError."""
        return await self._count(SubscribeUser(user, channels))

    async def unsubscribe(self, user: str, channels: list[str]) -> int:
        """Names that are checked. Raises EngineError."""
        return await self._count(UnsubscribeUser(user, channels))

    async def _count(self, question: Question) -> int:
        answers = await self._node.ask_all(_encode(question))
        return sum(msgspec.msgpack.decode(answer, type=int) for answer in answers)

    # For the engine, which puts what was asked to every worker.

    async def answer(self, question: bytes) -> bytes:
        asked = _question.decode(question)
        if isinstance(asked, TopChannels | TopSessions):
            return await self._top.answer(asked)
        if isinstance(asked, ListChannels):
            return _encode(self._channels(asked.prefix.encode()))
        if isinstance(asked, SubscribeUser):
            return _encode(await self._subscribe_user(asked.user, asked.channels))
        if isinstance(asked, UnsubscribeUser):
            found = await self._find(None, asked.user)
            return _encode(sum(self._unsubscribe(conn, asked.channels) for conn in found))
        if isinstance(asked, FindSessions):
            found = await self._find(
                asked.session, asked.user, asked.most, everybody=asked.session is asked.user is None
            )
            return _encode([self._describe(conn) for conn in found])
        found = await self._find(asked.session, asked.user)
        for conn in found:
            self._end(conn, "disconnected_by_operator")
        return _encode(len(found))

    async def _subscribe_user(self, user: str, names: list[str]) -> int:
        found = await self._find(None, user)
        if not found:
            return 0
        refused: dict[str, str] = {}
        # Before anybody is subscribed: from then on nothing of the channel may pass this worker by.
        for name in names:
            try:
                interest = self._node.join(self._node.channel(name))
                if interest is not None:
                    await interest
            except EngineError as error:
                refused[name] = error.word
        return sum(self._subscribe(conn, user, names, refused) for conn in found)

    def _subscribe(self, conn: int, user: str, names: list[str], refused: dict[str, str]) -> bool:
        """Whether it has at least one of them that it had not. JSON sessions are told of those alone."""
        session = self._session(conn, user)
        if session is None:
            return False
        has = set(self._reactor.subscriptions(conn))
        states: list[events.ChannelState] = []
        added = False
        for index, name in enumerate(names):
            channel = self._node.channel(name)
            if channel.name in has:
                continue
            word = refused.get(name)
            if word is None and len(has) >= self._max_channels:
                word = "too_many_channels"
            if word is not None:
                states.append(events.ChannelState(name, index, error=events.channel_error(word)))
                continue
            begun = self._node.subscribe(conn, channel, receives=True, sends=False)
            if begun is not None:
                has.add(channel.name)
                added = True
                self._node.enter(channel, session.id, session.user, session.info)
                session.given |= {name}
                states.append(events.ChannelState(name, index, begun.position))
        if states and session.json:
            self._reactor.send(conn, events.subscribed(states))
        return added

    def _unsubscribe(self, conn: int, names: list[str]) -> bool:
        known = self._reactor.session(conn)
        states: list[events.ChannelState] = []
        for index, name in enumerate(names):
            if self._node.unsubscribe(conn, name):
                states.append(events.ChannelState(name, index))
                if isinstance(known, Session):
                    self._node.exit(name, known.id)
                    known.given -= {name}
        if states and isinstance(known, Session) and known.json:
            self._reactor.send(conn, events.unsubscribed(states))
        return bool(states)

    def _session(self, conn: int, user: str) -> Session | None:
        """Of a connection that may be gone, or somebody else's, since it was found."""
        known = self._reactor.session(conn)
        if self._reactor.state(conn) != "open" or not isinstance(known, Session) or known.user != user:
            return None
        return known

    async def _find(
        self, session: str | None, user: str | None, most: int | None = None, *, everybody: bool = False
    ) -> list[int]:
        """Looks no further once there are `most`."""
        found: list[int] = []
        for first in range(0, self._reactor.places, PAGE_PLACES):
            found += [
                conn for conn in self._reactor.ids(first, PAGE_PLACES) if self._is(conn, session, user, everybody)
            ]
            if most is not None and len(found) >= most:
                break
            await asyncio.sleep(0)
        return found[:most]

    def _is(self, conn: int, session: str | None, user: str | None, everybody: bool) -> bool:
        if self._reactor.state(conn) != "open":
            return False
        if everybody:
            return True
        if session is not None:
            return self._reactor.session_id(conn) == session
        known = self._reactor.session(conn)
        return user is not None and isinstance(known, Session) and known.user == user

    def _describe(self, conn: int) -> Found:
        known = self._reactor.session(conn)
        session = known if isinstance(known, Session) else None
        return Found(
            self._reactor.session_id(conn) or "",
            session.user if session is not None else None,
            self._reactor.address(conn),
            "json" if session is not None and session.json else "raw",
            [name.decode() for name in self._reactor.subscriptions(conn)],
        )

    def _channels(self, prefix: bytes) -> dict[str, int]:
        names = [name for name in self._hub.names() if name.startswith(prefix)][:MOST_CHANNELS]
        return {name.decode(): self._hub.subscribers(name) for name in names}
