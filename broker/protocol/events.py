"""What the server says in `broker.json.v1`, as bytes of one text frame each.

The gateway calls these encoders for everything that concerns one connection: hello, subscribed, unsubscribed, ack,
presence, error, ping, expiring, drain; the node those of join and leave, which go to a whole channel as one frame.
`message` and `gap` go to many connections and are written by native code; their shape is stated here so that it
stands in one place:

    {"type":"message","channel":c,"data":<any JSON> | "text":s | "base64":s,"time":ms,
     "position":p (history), "id":s (the publisher's message_id), "from":{"user","session","info"} (from a client)}
    {"type":"gap","channel":c,"missed":<count or null>}

Every string given to an encoder must be free of lone surrogates; names and ids that were decoded here always are.
A field without a value is left out, except where null means something (`missed`, `session`, `user`).
"""

from collections.abc import Iterable

import msgspec

from broker.protocol.errors import ERRORS

Id = str | int | None

# `index` of a channel that the server began or ended by itself.
NOT_ASKED_FOR = -1


class ChannelError(msgspec.Struct, frozen=True, gc=False):
    """Why one channel of several was refused; `code` is a word of ERRORS."""

    code: str
    message: str


class ChannelState(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One channel of hello, subscribed or unsubscribed.

    `channel` is the plain name, None if what was asked for is not a name. `index` counts what was asked for from 0;
    NOT_ASKED_FOR otherwise.
    `recovered` is present exactly if the client asked for `since` or `last`.
    """

    channel: str | None
    index: int
    position: str | None = None
    recovered: bool | None = None
    error: ChannelError | None = None


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What a client must keep to."""

    max_message_bytes: int
    max_channels: int


class _Hello(msgspec.Struct, frozen=True, gc=False, tag="hello", tag_field="type"):
    session: str
    user: str | None
    channels: list[ChannelState]
    limits: Limits
    heartbeat_seconds: float


class _Subscribed(msgspec.Struct, frozen=True, gc=False, tag="subscribed", tag_field="type", omit_defaults=True):
    channels: list[ChannelState]
    id: Id = None


class _Unsubscribed(msgspec.Struct, frozen=True, gc=False, tag="unsubscribed", tag_field="type", omit_defaults=True):
    channels: list[ChannelState]
    id: Id = None


class _History(msgspec.Struct, frozen=True, gc=False, tag="history", tag_field="type", omit_defaults=True):
    channel: str
    messages: list[msgspec.Raw]
    position: str
    recovered: bool | None = None
    more: bool = False
    id: Id = None


class _Known(msgspec.Struct, frozen=True, gc=False, tag="ack", tag_field="type"):
    user: str | None
    id: Id | msgspec.UnsetType = msgspec.UNSET


class _Expiring(msgspec.Struct, frozen=True, gc=False, tag="expiring", tag_field="type"):
    in_ms: int


class _Ack(msgspec.Struct, frozen=True, gc=False, tag="ack", tag_field="type", omit_defaults=True):
    id: Id = None
    position: str | None = None
    subscriptions: int | None = None


class _Member(msgspec.Struct, frozen=True, gc=False):
    user: str | None


class _Present(msgspec.Struct, frozen=True, gc=False, tag="presence", tag_field="type", omit_defaults=True):
    channel: str
    members: list[msgspec.Raw]
    count: int
    truncated: bool = False
    id: Id = None


class _Join(msgspec.Struct, frozen=True, gc=False, tag="join", tag_field="type", omit_defaults=True):
    channel: str
    members: list[msgspec.Raw]
    count: int
    more: int = 0


class _Leave(msgspec.Struct, frozen=True, gc=False, tag="leave", tag_field="type", omit_defaults=True):
    channel: str
    members: list[msgspec.Raw]
    count: int
    more: int = 0


class _Error(msgspec.Struct, frozen=True, gc=False, tag="error", tag_field="type", omit_defaults=True):
    code: str
    message: str
    id: Id = None


class _Drain(msgspec.Struct, frozen=True, gc=False, tag="drain", tag_field="type"):
    reconnect_in_ms: int


_encoder = msgspec.json.Encoder()

# Rides with the ping frame in one write: a page sees no ping frames, but can miss this one.
PING = b'{"type":"ping"}'


def hello(
    session: str, user: str | None, channels: list[ChannelState], limits: Limits, heartbeat_seconds: float
) -> bytes:
    """First event of every JSON connection; it, not `open`, means connected."""
    return _encoder.encode(_Hello(session, user, channels, limits, heartbeat_seconds))


def subscribed(channels: list[ChannelState], id: Id = None) -> bytes:
    """Answer to a subscribe command: one entry per channel asked for, in that order."""
    return _encoder.encode(_Subscribed(channels, id))


def unsubscribed(channels: list[ChannelState], id: Id = None) -> bytes:
    """Answer to an unsubscribe command; without an id also the notice that the server took channels away."""
    return _encoder.encode(_Unsubscribed(channels, id))


def ack(id: Id = None, position: str | None = None, subscriptions: int | None = None) -> bytes:
    """A publish was sequenced, or a ping was read."""
    return _encoder.encode(_Ack(id, position, subscriptions))


def known(user: str | None, id: Id = None) -> bytes:
    """Answer to auth and refresh: who the connection is now."""
    return _encoder.encode(_Known(user, msgspec.UNSET if id is None else id))


def expiring(in_ms: int) -> bytes:
    """The identity ends so soon; a `refresh` prolongs it."""
    return _encoder.encode(_Expiring(max(0, in_ms)))


def member(session: str, user: str | None, info: bytes | None = None) -> bytes:
    """One of `members`, as others see it; `info` is JSON already.

    Without a user the session tells members apart. With one it is nobody's business how many there are.
    """
    body = _encoder.encode(_Member(user))[:-1]
    if user is None:
        body += b',"session":' + _encoder.encode(session)
    if info is not None:
        body += b',"info":' + info
    return body + b"}"


def presence(channel: str, members: Iterable[bytes], count: int, truncated: bool, id: Id = None) -> bytes:
    """Answer to a presence command: who is there, `count` in all, and whether some are not listed."""
    return _encoder.encode(_Present(channel, [msgspec.Raw(one) for one in members], count, truncated, id))


def members_changed(kind: str, channel: str, members: Iterable[bytes], more: int, count: int) -> bytes:
    """`join` or `leave`: who, how many more that are not named, and how many are there now."""
    struct = _Join if kind == "join" else _Leave
    return _encoder.encode(struct(channel, [msgspec.Raw(one) for one in members], count, more))


def history(
    channel: str, messages: list[bytes], position: str, recovered: bool | None, more: bool, id: Id = None
) -> bytes:
    """Answer to a history command; each of `messages` is what `message` made."""
    return _encoder.encode(_History(channel, [msgspec.Raw(one) for one in messages], position, recovered, more, id))


def message(channel: str, kind: int, payload: bytes, time_ms: int, extra: bytes) -> bytes:
    """A `message` event, as native code writes it: kind 0 is JSON, 1 text, 2 binary; `extra` begins with a comma."""
    if kind == 0:
        body = b',"data":' + payload
    elif kind == 1:
        body = b',"text":' + _encoder.encode(payload.decode())
    else:
        body = b',"base64":' + _encoder.encode(payload)
    name = _encoder.encode(channel)
    return b'{"type":"message","channel":' + name + body + b',"time":%d' % time_ms + extra + b"}"


def error(code: str, message: str | None = None, id: Id = None) -> bytes:
    """Answer to a message that could not be carried out; `code` is a word of ERRORS."""
    return _encoder.encode(_Error(code, ERRORS[code] if message is None else message, id))


def drain(reconnect_in_ms: int) -> bytes:
    """The server process ends: the Close that follows means nothing bad, and says when to come back."""
    return _encoder.encode(_Drain(reconnect_in_ms))


def channel_error(code: str, message: str | None = None) -> ChannelError:
    """Entry for `channels[].error`; `code` is a word of ERRORS."""
    return ChannelError(code, ERRORS[code] if message is None else message)
