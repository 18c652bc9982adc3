"""The members of one worker: which of its sessions is in which channel with presence.

The node keeps it, tells the engine of every change through it, and reads it out when the engine has to be told
everything again. The engine's own book of all workers is `broker.engine.presence`.
"""

from collections.abc import Iterator

from broker.engine.base import Engine, Member


class Members:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._channels: dict[str, dict[bytes, Member]] = {}

    def enter(self, channel: bytes, member: Member) -> None:
        self._channels.setdefault(member.session, {})[channel] = member
        self._engine.enter(channel, member)

    def exit(self, channel: bytes, session: str) -> None:
        """The session has left a channel, which may be one without presence."""
        channels = self._channels.get(session)
        if channels is None or channels.pop(channel, None) is None:
            return
        if not channels:
            del self._channels[session]
        self._engine.exit(channel, session)

    def end(self, session: str) -> None:
        """The session is over."""
        for channel in self._channels.pop(session, ()):
            self._engine.exit(channel, session)

    def __iter__(self) -> Iterator[tuple[bytes, Member]]:
        """A copy: whoever reads it may take its time."""
        return iter([(channel, member) for channels in self._channels.values() for channel, member in channels.items()])
