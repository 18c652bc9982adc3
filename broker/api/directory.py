"""What the API asks of all workers: their sessions, users and channels. The gateway's Control is one."""

from typing import Protocol

from broker.api.bodies import BusyChannel, ChannelKey, SessionInfo, SessionKey, SlowSession


class Directory(Protocol):
    """Every verb raises EngineError."""

    async def disconnect(self, session: str | None = None, user: str | None = None) -> int:
        """How many sessions were ended."""

    async def sessions(self, session: str | None = None, user: str | None = None, most: int = 100) -> list[SessionInfo]:
        """The session of this id, those of this user, or everybody's; `most` of them."""

    async def channels(self, prefix: str = "") -> dict[str, int]:
        """Channel to receiving subscriptions."""

    async def busiest(self, by: ChannelKey, most: int) -> list[BusyChannel]:
        """Channels with most of that in the last seconds, the highest first; none without any."""

    async def slowest(self, by: SessionKey, most: int) -> list[SlowSession]:
        """Sessions with most of that waiting for them, the highest first; none without any."""

    async def subscribe(self, user: str, channels: list[str]) -> int:
        """How many sessions of the user have at least one of the channels that they had not."""

    async def unsubscribe(self, user: str, channels: list[str]) -> int:
        """How many sessions of the user had at least one of the channels."""
