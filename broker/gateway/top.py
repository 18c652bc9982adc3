"""Which channels are busiest and which sessions are slowest right now, on all workers: for people, not for graphs.

Metrics have no label for it, because nobody bounds how many channels and sessions there are. Each worker finds its own
best few, a page at a time, and whoever asked puts them together. A channel's numbers are then asked for by its name
once more: it may be among the best few of all workers and not of each.
"""

import asyncio
from collections.abc import Callable, Iterator
from heapq import nlargest

import msgspec

from broker.api.bodies import BusyChannel, ChannelKey, SessionKey, SlowSession
from broker.api.bodies import SessionInfo as Found
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.native._top import CHANNEL_KEYS, SESSION_KEYS, BusiestChannels, SlowestSessions
from broker.node import Node

# Channels, or places of the table of connections, looked at before others have their turn: a fraction of a millisecond.
PAGE = 4096


class TopChannels(msgspec.Struct, frozen=True, tag="top_channels"):
    """The busiest channels of each worker, `most` at the most; or else these `names`, as far as they are there."""

    by: ChannelKey
    most: int
    names: list[str] | None = None


class TopSessions(msgspec.Struct, frozen=True, tag="top_sessions"):
    """The slowest sessions of each worker, `most` at the most."""

    by: SessionKey
    most: int


_encode = msgspec.msgpack.Encoder().encode


class Top:
    """`describe` says of a connection who it is."""

    def __init__(self, reactor: Reactor, hub: Hub, node: Node, describe: Callable[[int], Found]) -> None:
        self._reactor = reactor
        self._hub = hub
        self._node = node
        self._describe = describe

    # For whoever asks.

    async def channels(self, by: ChannelKey, most: int) -> list[BusyChannel]:
        """The highest first. Raises EngineError."""
        candidates = await self._channels(TopChannels(by, most))
        if not candidates:
            return []
        found = await self._channels(TopChannels(by, 0, list(candidates)))
        return nlargest(most, found.values(), key=lambda channel: channel.number(by))

    async def _channels(self, question: TopChannels) -> dict[str, BusyChannel]:
        """Those of all workers put together. Every worker with subscribers is given each message of their channel, so
        the messages of one worker are those of all; deliveries and subscriptions add up.
        """
        total: dict[str, BusyChannel] = {}
        for answer in await self._node.ask_all(_encode(question)):
            for one in msgspec.msgpack.decode(answer, type=list[BusyChannel]):
                known = total.get(one.channel)
                total[one.channel] = one if known is None else known.together(one)
        return total

    async def sessions(self, by: SessionKey, most: int) -> list[SlowSession]:
        """The highest first. Raises EngineError."""
        answers = await self._node.ask_all(_encode(TopSessions(by, most)))
        found = [one for answer in answers for one in msgspec.msgpack.decode(answer, type=list[SlowSession])]
        return nlargest(most, found, key=lambda session: session.number(by))

    # For the engine, which puts what was asked to every worker.

    async def answer(self, question: TopChannels | TopSessions) -> bytes:
        if isinstance(question, TopChannels):
            return _encode(await self._busiest(question))
        return _encode(await self._slowest(question))

    async def _busiest(self, question: TopChannels) -> list[BusyChannel]:
        looked = BusiestChannels(self._hub, self._reactor, question.most, CHANNEL_KEYS.index(question.by))
        if question.names is not None:
            numbers = ((name, looked.numbers(name.encode())) for name in question.names)
            return [BusyChannel(name, *found) for name, found in numbers if found is not None]
        names = self._hub.names()
        for first in range(0, len(names), PAGE):
            looked.look(names[first : first + PAGE])
            await asyncio.sleep(0)
        return [BusyChannel(name.decode(), *found) for name, *found in looked.found()]  # type: ignore[arg-type]

    async def _slowest(self, question: TopSessions) -> list[SlowSession]:
        looked = SlowestSessions(self._reactor, question.most, SESSION_KEYS.index(question.by))
        for first in range(0, self._reactor.places, PAGE):
            looked.look(first, PAGE)
            await asyncio.sleep(0)
        return list(self._described(looked.found()))

    def _described(self, found: list[tuple[int, int, int, int]]) -> Iterator[SlowSession]:
        for conn, queued_bytes, queued_messages, waiting_ms in found:
            if self._reactor.state(conn) == "open":  # it may have ended since it was found
                who = self._describe(conn)
                yield SlowSession(
                    who.session, who.user, who.address, who.format, queued_bytes, queued_messages, waiting_ms
                )
