"""What can be read of channels: their history, who is in them, which there are. Scope `read`."""

import msgspec

from broker.api.bodies import ChannelInfo, Channels, Members, Messages
from broker.api.directory import Directory
from broker.api.keys import Key
from broker.api.problems import Problem
from broker.api.publishing import Publishing
from broker.engine.base import Present
from broker.node import Node
from broker.protocol import events
from broker.protocol.position import is_position
from broker.recovery.replays import envelope


class Reading:
    """Every verb raises Problem and EngineError."""

    def __init__(self, node: Node, publishing: Publishing, directory: Directory) -> None:
        self._node = node
        self._publishing = publishing
        self._directory = directory

    async def messages(self, key: Key, name: str, since: str | None, limit: int) -> Messages:
        key.need_channel(name)
        channel = self._publishing.channel(name)
        if since is not None and not is_position(since):
            raise Problem("bad_field", "since: not a position")
        if channel.history is None:
            raise Problem("no_history")
        interest = self._node.join(channel, since)
        if interest is not None:
            await interest
        found = self._node.read(channel, since, limit)
        if found is None:
            raise Problem("no_history")
        return Messages(
            name,
            [
                msgspec.Raw(events.message(name, one.kind, one.payload, one.time_ms, envelope(one)))
                for one in found.publications
            ],
            found.position,
            None if since is None else found.complete,
            found.more,
        )

    async def presence(self, key: Key, name: str) -> Members:
        key.need_channel(name)
        channel = self._publishing.channel(name)
        if not channel.presence:
            raise Problem("not_supported")
        present = self._node.present(channel)
        if not isinstance(present, Present):
            present = await present
        return Members(name, [msgspec.Raw(one) for one in present.members], present.count, present.truncated)

    async def channels(self, key: Key, prefix: str) -> Channels:
        """Those that the key covers."""
        found = await self._directory.channels(prefix)
        return Channels([ChannelInfo(name, count) for name, count in sorted(found.items()) if key.covers(name)])
