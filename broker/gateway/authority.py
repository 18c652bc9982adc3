"""Who a connection is and what of its offer it may have: the one place where credentials, hook and permissions meet.

The opening asks `admit` once per handshake, the commands ask for what is said in band. A credential that a page chose
(its offer, the Authorization header, the URL) is right or the connection is refused. A cookie comes by itself: one that
does not hold makes nobody, it refuses nothing that everybody may have. Nothing here is logged but words of ours.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from broker.auth.identity import ANONYMOUS, AuthError, Identity
from broker.auth.origin import OriginRule
from broker.auth.permissions import Permissions
from broker.config.schema import Auth
from broker.gateway.session import Evidence, Session
from broker.log import get_logger
from broker.native._request import Request
from broker.protocol.offer import ChannelRequest, Offer

log = get_logger(__name__)

# Grants that a session gathers from a hook, one subscribe after the other; the oldest give way.
MOST_GRANTS = 1024


class Grant(msgspec.Struct, frozen=True, gc=False):
    """Who the connection is, and of what it asked for what it may not have.

    `refused`: channel to a word of ERRORS. `mute`: channels that it may hear and not publish in.
    """

    identity: Identity = ANONYMOUS
    refused: Mapping[str, str] = {}
    mute: frozenset[str] = frozenset()
    evidence: Evidence | None = None


class Tokens(Protocol):
    """Turns a token into an identity; `known` without waiting, None if it has to be verified."""

    def known(self, token: str) -> Identity | None: ...

    async def verify(self, token: str) -> Identity:
        """Raises AuthError."""


class Hook(Protocol):
    """Asks the site. `evidence` is what of a request it is shown, now and for later questions of the session."""

    def evidence(self, headers: tuple[tuple[bytes, bytes], ...], cookies: bool) -> Evidence: ...

    async def ask(self, evidence: Evidence, origin: str | None, channels: tuple[str, ...]) -> Identity:
        """Raises AuthError."""


class Gatekeeper:
    """The authority of a broker. Without tokens and hook everybody is anonymous."""

    def __init__(
        self,
        permissions: Permissions,
        origins: OriginRule | None = None,
        auth: Auth | None = None,
        tokens: Tokens | None = None,
        hook: Hook | None = None,
    ) -> None:
        self.permissions = permissions
        self._origins = origins or OriginRule()
        self._auth = auth or Auth()
        self.tokens = tokens
        self.hook = hook

    def reload(self, origins: OriginRule, auth: Auth) -> None:
        """Another configuration; the permissions reload themselves."""
        self._origins = origins
        self._auth = auth

    def use(self, tokens: Tokens | None, hook: Hook | None) -> None:
        """Others to ask, from now on."""
        self.tokens = tokens
        self.hook = hook

    @property
    def takes_tokens(self) -> bool:
        return self.tokens is not None

    async def admit(self, request: Request, offer: Offer) -> Grant:
        """Raises AuthError."""
        evidence = None
        identity = ANONYMOUS
        if self.tokens is not None or self.hook is not None:
            token = self._chosen(request, offer)
            if token is not None:
                identity = await self.verify(token)
            else:
                cookies = self._origins.names(request.origin)
                if cookies and self._auth.cookie and self.tokens is not None:
                    identity = await self._from_cookie(request)
                if identity is ANONYMOUS and self.hook is not None:
                    evidence = self.hook.evidence(request.headers(), cookies)
                    names = tuple(asked.name for asked in offer.channels)
                    identity = await self.hook.ask(evidence, _text(request.origin), names)
        refused: dict[str, str] = {}
        mute: list[str] = []
        for asked in offer.channels:
            word, speaks = self._judge(identity, asked, offer)
            if word is not None:
                refused[asked.name] = word
            elif not speaks:
                mute.append(asked.name)
        return Grant(identity, refused, frozenset(mute), evidence)

    def _judge(self, identity: Identity, asked: ChannelRequest, offer: Offer) -> tuple[str | None, bool]:
        """Why the channel is refused, and whether it may be published in. Whoever names a direction means it; whoever
        names none wants what there is.
        """
        word = None
        if asked.direction != "send":
            word = self.permissions.subscribe(identity, asked.name)
        if word is not None or asked.direction == "recv" or (offer.format == "json" and asked.direction != "send"):
            return word, False
        mute = self.permissions.publish(identity, asked.name)
        return (mute if asked.direction in ("send", "both") else None), mute is None

    def _chosen(self, request: Request, offer: Offer) -> str | None:
        """The credential that the client gave on purpose; the offer's is also that of the URL, where it is taken."""
        if offer.credential is not None:
            return offer.credential
        header = request.header(b"authorization")
        if header is not None:
            scheme, _, token = header.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return token.strip()
            # Basic and the like are for a proxy or for the hook.
        return None

    async def _from_cookie(self, request: Request) -> Identity:
        token = cookie(request.headers(), self._auth.cookie)
        if token is None:
            return ANONYMOUS
        try:
            return await self.verify(token)
        except AuthError as error:
            if error.word == "overloaded":
                raise
            log.debug("cookie holds no valid token", why=error.text)
            return ANONYMOUS

    async def verify(self, token: str) -> Identity:
        """Raises AuthError."""
        if self.tokens is None:
            raise AuthError("not_authenticated", "this server takes no tokens")
        if not token or len(token) > self._auth.max_token_bytes:
            raise AuthError("not_authenticated", f"a token has 1 to {self._auth.max_token_bytes} bytes")
        known = self.tokens.known(token)
        return await self.tokens.verify(token) if known is None else known

    async def ask_again(self, session: Session, names: tuple[str, ...]) -> None:
        """Lets the site decide about channels that a session asks for in band. Raises AuthError."""
        if self.hook is None or session.evidence is None:
            return
        verdict = await self.hook.ask(session.evidence, session.origin, names)
        had = session.identity
        if verdict.user != had.user:
            raise AuthError("other_identity")
        session.identity = msgspec.structs.replace(
            verdict,
            info=had.info,
            subscribe=_added(had.subscribe, verdict.subscribe),
            publish=_added(had.publish, verdict.publish),
        )


def _added(had: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return had if set(more) <= set(had) else tuple(dict.fromkeys((*had, *more)))[-MOST_GRANTS:]


def _text(origin: bytes | None) -> str | None:
    return None if origin is None else origin.decode("latin-1")


def cookie(headers: tuple[tuple[bytes, bytes], ...], name: str) -> str | None:
    """The value of a cookie (RFC 6265 section 4.2.1), None if there is none, or several that differ: a sub-domain can
    set one of the same name, and nobody can tell which of them the site has set.
    """
    wanted = name.encode()
    values = set()
    for key, line in headers:
        if key.lower() == b"cookie":
            for pair in line.split(b";"):
                left, equals, value = pair.strip(b" \t").partition(b"=")
                if equals and left == wanted:
                    values.add(value.strip(b'"'))
    return values.pop().decode("latin-1") if len(values) == 1 else None
