"""A session: an accepted WebSocket with an identity, as the gateway remembers it.

Made by the opening, carried by the native connection, given back with every command. One small untracked object: no
cycles, no reference to anything of the gateway. A raw session that the native core serves by itself has none at all.
"""

import msgspec

from broker.auth.identity import ANONYMOUS, Identity
from broker.node import Channel

# What of its request a session keeps for the hook: see `Hook.evidence`.
Evidence = tuple[object, ...]


class Session(msgspec.Struct, gc=False):
    """`sender` is the "from" member of what this session publishes, with its leading comma: encoded once."""

    id: str
    json: bool
    sender: bytes
    identity: Identity = ANONYMOUS
    # Raw: where its messages go; None = nothing of its offer takes them.
    target: Channel | None = None
    # Only with a hook: what it is asked with when the session subscribes in band, and the page's origin.
    evidence: Evidence | None = None
    origin: str | None = None
    # Channels whose publishes have a bound, by name: tokens that are left, and when they were counted. Made at need.
    allowances: dict[bytes, tuple[float, float]] | None = None
    # Channels that a token's subs or the operator have subscribed it to: no claim is asked for them as long as it is.
    given: frozenset[str] = frozenset()
    # Whether the page has been told that this identity ends soon, and the second in which it is looked at (`Expiry`).
    warned: bool = False
    looked_at: int = 0
    # By the clock of `SessionLog`; None: it was not asked to note it.
    opened_at: float | None = None

    @property
    def user(self) -> str | None:
        return self.identity.user

    @property
    def info(self) -> bytes | None:
        return self.identity.info

    def become(self, identity: Identity) -> None:
        """Another identity, or a newer one of the same user."""
        self.identity = identity
        self.sender = sender_member(self.id, identity.user, identity.info)
        self.warned = False


class Sender(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    session: str
    user: str | None = None
    info: msgspec.Raw | None = None


def sender_member(session_id: str, user: str | None, info: bytes | None = None) -> bytes:
    return b',"from":' + msgspec.json.encode(Sender(session_id, user, None if info is None else msgspec.Raw(info)))
