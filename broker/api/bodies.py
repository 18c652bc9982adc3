"""What requests and responses of the HTTP API look like; the OpenAPI document is written from these.

Unknown fields are refused: a misspelt `chanel` or `messageId` is told to its author instead of being dropped.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.protocol.commands import ABSENT, MAX_LIST_ITEMS, MAX_MESSAGE_ID_CHARACTERS

MessageId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_MESSAGE_ID_CHARACTERS,
        description="A repeated id of a channel publishes once, for five minutes.",
    ),
]
Name = Annotated[str, Meta(description="A channel name.", examples=["news"])]


class Publish(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A message for one channel or several. Exactly one of `channel` and `channels`; exactly one of `data` (any JSON
    value), `text` and `base64`.
    """

    channel: Name | None = None
    channels: Annotated[list[Name], Meta(min_length=1)] | None = None
    data: msgspec.Raw = ABSENT
    text: str | None = None
    base64: str | None = None
    message_id: MessageId | None = None


class Published(msgspec.Struct, frozen=True, gc=False):
    """The message has its place in its channel. `position`: where, if the channel has a history. `subscriptions`: how
    many it went to on this worker; null if only the engine knows.
    """

    channel: str
    position: str | None
    subscriptions: int | None


class ItemError(msgspec.Struct, frozen=True, gc=False):
    """Why one message of several was not published; `code` as in problem documents."""

    code: str
    message: str


class Failed(msgspec.Struct, frozen=True, gc=False):
    channel: str
    error: ItemError


class Results(msgspec.Struct, frozen=True, gc=False):
    """One entry for each message and channel, in order."""

    results: list[Published | Failed]


class Messages(msgspec.Struct, frozen=True, gc=False):
    """Messages of a channel, oldest first, each as a `message` event of broker.json.v1.

    `position` is after the last of them; `recovered` says whether everything after `since` is there (null without
    `since`), `more` that there is more after `position`.
    """

    channel: str
    messages: list[msgspec.Raw]
    position: str
    recovered: bool | None
    more: bool


class Members(msgspec.Struct, frozen=True, gc=False):
    """Who is in a channel: `count` in all; `truncated` says that `members` lists fewer."""

    channel: str
    members: list[msgspec.Raw]
    count: int
    truncated: bool


class ChannelInfo(msgspec.Struct, frozen=True, gc=False):
    channel: str
    subscriptions: int


class Channels(msgspec.Struct, frozen=True, gc=False):
    channels: list[ChannelInfo]


class SessionInfo(msgspec.Struct, frozen=True, gc=False):
    """One session, as an operator sees it. `format` is json or raw, `channels` in no order."""

    session: str
    user: str | None
    address: str | None
    format: str
    channels: list[str]


class Sessions(msgspec.Struct, frozen=True, gc=False):
    """`truncated` says that there are more than were asked for."""

    sessions: list[SessionInfo]
    truncated: bool


ChannelKey = Literal["messages", "deliveries", "subscriptions"]
SessionKey = Literal["queued_bytes", "queued_messages", "waiting_ms"]


class BusyChannel(msgspec.Struct, frozen=True, gc=False):
    """A channel and what goes through it, as of the last five to ten seconds."""

    channel: str
    messages_per_second: float
    deliveries_per_second: float
    subscriptions: int

    def number(self, by: ChannelKey) -> float:
        if by == "subscriptions":
            return self.subscriptions
        return self.messages_per_second if by == "messages" else self.deliveries_per_second

    def together(self, other: "BusyChannel") -> "BusyChannel":
        """With what another worker says of it: each is given all the messages, and has subscriptions of its own."""
        return BusyChannel(
            self.channel,
            max(self.messages_per_second, other.messages_per_second),
            self.deliveries_per_second + other.deliveries_per_second,
            self.subscriptions + other.subscriptions,
        )


class BusyChannels(msgspec.Struct, frozen=True, gc=False):
    """The highest first."""

    channels: list[BusyChannel]


class SlowSession(msgspec.Struct, frozen=True, gc=False):
    """A session and what waits for it. `waiting_ms`: how old the oldest of that is."""

    session: str
    user: str | None
    address: str | None
    format: str
    queued_bytes: int
    queued_messages: int
    waiting_ms: int

    def number(self, by: SessionKey) -> int:
        number: int = getattr(self, by)
        return number


class SlowSessions(msgspec.Struct, frozen=True, gc=False):
    """The highest first."""

    sessions: list[SlowSession]


class Disconnected(msgspec.Struct, frozen=True, gc=False):
    """How many sessions were ended."""

    disconnected: int


class ChannelList(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    channels: Annotated[list[Name], Meta(min_length=1, max_length=MAX_LIST_ITEMS)]


class Affected(msgspec.Struct, frozen=True, gc=False):
    """How many sessions of the user have at least one of the channels more, or less, than before."""

    sessions: int
