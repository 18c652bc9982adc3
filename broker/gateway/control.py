"""Questions and orders that concern sessions wherever they are: disconnect, look up, list channels.

Asked at any worker (later by the HTTP API), put to all of them through the engine (`Engine.ask_all`), answered by each
for itself and added up by whoever asked. The sessions of a worker are looked through a page at a time, because a
hundred thousand at once would hold its loop.
"""

import asyncio
from collections.abc import Callable

import msgspec

from broker.gateway.session import Session
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.node import Node

# Places of the table of connections looked at before others have their turn; as in the drain, half a millisecond.
PAGE_PLACES = 4096
# Channels of one worker in an answer; more than anybody reads, less than a link notices.
MOST_CHANNELS = 10_000


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """Ends the session of this id, or all of this user; answered with how many."""

    session: str | None = None
    user: str | None = None


class FindSessions(msgspec.Struct, frozen=True, tag="sessions"):
    """The session of this id, or those of this user, `most` of each worker at the most."""

    session: str | None = None
    user: str | None = None
    most: int = 100


class ListChannels(msgspec.Struct, frozen=True, tag="channels"):
    """Channels that somebody is subscribed to and that begin with `prefix`; with how many receive."""

    prefix: str = ""


class Found(msgspec.Struct, frozen=True):
    """One session, as an operator sees it. `channels` in no order."""

    session: str
    user: str | None
    address: str | None
    format: str
    channels: list[str]


Question = Disconnect | FindSessions | ListChannels
_question = msgspec.msgpack.Decoder(Question)
_encode = msgspec.msgpack.Encoder().encode


class Control:
    """`end(conns, word)` ends sessions with the code of a word."""

    def __init__(self, reactor: Reactor, hub: Hub, node: Node, end: Callable[[int, str], None]) -> None:
        self._reactor = reactor
        self._hub = hub
        self._node = node
        self._end = end

    # For whoever asks.

    async def disconnect(self, session: str | None = None, user: str | None = None) -> int:
        """How many sessions were ended. Raises EngineError."""
        answers = await self._node.ask_all(_encode(Disconnect(session, user)))
        return sum(msgspec.msgpack.decode(answer, type=int) for answer in answers)

    async def sessions(self, session: str | None = None, user: str | None = None, most: int = 100) -> list[Found]:
        """Raises EngineError."""
        answers = await self._node.ask_all(_encode(FindSessions(session, user, most)))
        return [found for answer in answers for found in msgspec.msgpack.decode(answer, type=list[Found])][:most]

    async def channels(self, prefix: str = "") -> dict[str, int]:
        """Channel to receiving subscriptions, of all workers. Raises EngineError."""
        total: dict[str, int] = {}
        for answer in await self._node.ask_all(_encode(ListChannels(prefix))):
            for name, count in msgspec.msgpack.decode(answer, type=dict[str, int]).items():
                total[name] = total.get(name, 0) + count
        return total

    # For the engine, which puts what was asked to every worker.

    async def answer(self, question: bytes) -> bytes:
        asked = _question.decode(question)
        if isinstance(asked, ListChannels):
            return _encode(self._channels(asked.prefix.encode()))
        found = await self._find(asked.session, asked.user)
        if isinstance(asked, FindSessions):
            return _encode([self._describe(conn) for conn in found[: asked.most]])
        for conn in found:
            self._end(conn, "disconnected_by_operator")
        return _encode(len(found))

    async def _find(self, session: str | None, user: str | None) -> list[int]:
        found: list[int] = []
        for first in range(0, self._reactor.places, PAGE_PLACES):
            found += [conn for conn in self._reactor.ids(first, PAGE_PLACES) if self._is(conn, session, user)]
            await asyncio.sleep(0)
        return found

    def _is(self, conn: int, session: str | None, user: str | None) -> bool:
        if self._reactor.state(conn) != "open":
            return False
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
