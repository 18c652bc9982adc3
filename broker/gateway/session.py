"""A session: an accepted WebSocket with an identity, as the gateway remembers it.

Made by the opening, carried by the native connection, given back with every command. One small untracked object: no
cycles, no reference to anything of the gateway. A raw session that the native core serves by itself has none at all.
"""

import msgspec

from broker.node import Channel


class Session(msgspec.Struct, gc=False):
    """`sender` is the "from" member of what this session publishes, with its leading comma: encoded once."""

    id: str
    json: bool
    sender: bytes
    user: str | None = None
    # Raw: where its messages go; None = nothing of its offer takes them.
    target: Channel | None = None
    # JSON that others are shown with the user: `from` of its messages, presence.
    info: bytes | None = None


class Sender(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    session: str
    user: str | None = None
    info: msgspec.Raw | None = None


def sender_member(session_id: str, user: str | None, info: bytes | None = None) -> bytes:
    return b',"from":' + msgspec.json.encode(Sender(session_id, user, None if info is None else msgspec.Raw(info)))
