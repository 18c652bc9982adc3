"""From a request head to a session: path, origin, offer, identity, permissions, joins, answer.

The gateway calls `open` for each upgrade. The decision may wait (an identity that has to be asked for); the connection
then stands still, and whoever comes back finds it by its id or not at all.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from broker.auth.identity import AuthError, Identity
from broker.auth.origin import OriginRule
from broker.auth.permissions import Permissions
from broker.engine.base import EngineError
from broker.gateway.authority import Grant
from broker.gateway.expiry import Expiry
from broker.gateway.refusals import CAUSE_OF, Refusals, close_payload, problem
from broker.gateway.session import Session, sender_member
from broker.gateway.sessionlog import SessionLog
from broker.log import get_logger
from broker.native._json import check
from broker.native._reactor import Reactor
from broker.native._request import Request
from broker.node import Begun, Channel, Node
from broker.protocol import events
from broker.protocol.close_codes import BY_WORD, CloseCode
from broker.protocol.errors import ERRORS
from broker.protocol.offer import ChannelRequest, Offer, OfferError, OfferRules, check_name, read_offer

log = get_logger(__name__)

FORMAT_RAW, FORMAT_JSON = 0, 1

# Levels of nesting in `info`: as published JSON by default (limits.max_json_depth).
MAX_INFO_DEPTH = 64

# What a refusal for each reason is in HTTP, for clients that can read a status; any other reason is 403.
_STATUS = {"bad_offer": 400, "not_authenticated": 401, "token_expired": 401, "rate_limited": 429, "overloaded": 503}


class Denied(Exception):
    """No session for this connection; `word` of the close codes."""

    def __init__(self, word: str, text: str | None = None) -> None:
        self.word = word
        self.text = text
        super().__init__(word)


class Authority(Protocol):
    """Decides who a connection is and which channels of its offer it may have. May wait."""

    async def admit(self, request: Request, offer: Offer) -> Grant:
        """Raises Denied, AuthError."""


class Opening:
    def __init__(
        self,
        reactor: Reactor,
        node: Node,
        authority: Authority,
        origins: OriginRule,
        refusals: Refusals,
        rules: OfferRules,
        hello_limits: events.Limits,
        heartbeat_seconds: float,
        max_info_bytes: int = 1024,
        permissions: Permissions | None = None,
        expiry: Expiry | None = None,
    ) -> None:
        self._reactor = reactor
        self._node = node
        self._authority = authority
        self._origins = origins
        self._refusals = refusals
        self._rules = rules
        self._hello_limits = hello_limits
        self._heartbeat_seconds = heartbeat_seconds
        self._max_info_bytes = max_info_bytes
        # Called with each connection that is refused for what it asked for.
        self.on_refused: Callable[[int], None] = lambda conn: None
        self._permissions = permissions or Permissions({})
        self._expiry = expiry
        # None: nobody wants a line for each session.
        self.sessions: SessionLog | None = None

    def reload(self, origins: OriginRule, refusals: Refusals) -> None:
        """For those who connect from now on; nobody is asked twice."""
        self._origins = origins
        self._refusals = refusals

    def origin_allowed(self, request: Request) -> bool:
        return self._origins.allows(request.origin)

    async def open(self, conn: int, request: Request) -> None:
        """Answers the upgrade, now or after waiting."""
        try:
            offer = read_offer(request.offer, request.query, self._rules)
        except OfferError as error:
            self._refuse(conn, request, BY_WORD["bad_offer"], f"offer[{error.index}]: {error.text}", error.answer)
            return
        try:
            grant = await self._authority.admit(request, offer)
            if grant.identity.info is not None:
                self.check_info(grant.identity.info)
            given = self.given(grant.identity, tuple(asked.name for asked in offer.channels))
            # Before the 101: from the first moment of the session on nothing may pass it by.
            joining = self._join_all(offer, grant, given)
            if joining is not None:
                for interest in joining:
                    await interest
            if offer.format == "json":
                self._open_json(conn, request, offer, grant, given)
            else:
                self._open_raw(conn, request, offer, grant, given)
        except Denied as denied:
            self._refuse(conn, request, BY_WORD[denied.word], denied.text, offer.answer)
        except AuthError as error:
            if error.word == "overloaded":
                self._turn_away(conn, error.text or "nobody can say who this is now; try again later", "overloaded")
            else:
                self._refuse(conn, request, BY_WORD[error.word], error.text, offer.answer)
        except EngineError as error:
            # As any overload in HTTP: a page that was let in first would come back at once, with everybody else.
            self._turn_away(conn, "the channels cannot be joined now; try again later", error.word)

    def _turn_away(self, conn: int, text: str, word: str) -> None:
        self._reactor.respond(conn, problem(503, text, word), CAUSE_OF["overloaded"])

    def given(self, identity: Identity, asked: tuple[str, ...]) -> list[str]:
        """The channels that an identity is subscribed to besides those it asks for. What cannot be given is left out:
        whoever made the token hears of it in the log, the page could do nothing about it.
        """
        found: list[str] = []
        for name in identity.subs:
            try:
                check_name(name, self._rules)
            except OfferError:
                log.warning("subs of a token name no channel")
                continue
            if name in asked or name in found or len(asked) + len(found) >= self._rules.max_channels:
                continue
            if self._permissions.given(identity, name):
                found.append(name)
            else:
                log.warning("subs of a token name a channel that its user may not have")
        return found

    def _refuse(self, conn: int, request: Request, row: CloseCode, text: str | None, answer: bytes | None) -> None:
        cause = CAUSE_OF[row.word]
        self.on_refused(conn)
        address = self._reactor.address(conn)
        if self._refusals.readable(request.origin, request.offer is not None, answer, address):
            assert request.accept is not None, "only valid upgrades come here"
            self._reactor.hold(
                conn, request.accept, answer, close_payload(row, text=text), cause, self._refusals.hold_seconds()
            )
        else:
            self._reactor.respond(conn, problem(_STATUS.get(row.word, 403), text or row.text, row.word), cause)

    def _join_all(self, offer: Offer, grant: Grant, given: list[str]) -> list[Awaitable[None]] | None:
        """What is still to be awaited; None, and nothing made, if everything comes here already."""
        joining: list[Awaitable[None]] | None = None
        for asked in offer.channels:
            if asked.direction != "send" and asked.name not in grant.refused:
                interest = self._node.join(self._node.channel(asked.name), asked.since)
                if interest is not None:
                    joining = [interest] if joining is None else [*joining, interest]
        for name in given:
            interest = self._node.join(self._node.channel(name))
            if interest is not None:
                joining = [interest] if joining is None else [*joining, interest]
        return joining

    def check_info(self, info: bytes) -> None:
        """It ends up in frames that everybody in a channel shares: broken, it would break them all."""
        if len(info) > self._max_info_bytes:
            raise Denied("not_authenticated", f"info is longer than {self._max_info_bytes} bytes")
        if check(info, MAX_INFO_DEPTH) is not None:
            raise Denied("not_authenticated", "info is not JSON that every client can read")

    def _open_raw(self, conn: int, request: Request, offer: Offer, grant: Grant, given: list[str]) -> None:
        """All or nothing: a raw page cannot be told about single channels."""
        for asked in offer.channels:
            word = grant.refused.get(asked.name)
            if word is not None:
                text = f"offer[{asked.index}]: {ERRORS[word]}"
                raise Denied(word if word in BY_WORD else "not_permitted", text)
        target = _target(offer.channels)
        if target is not None and target.name in grant.mute:
            target = None
        channels = [(asked, self._node.channel(asked.name)) for asked in offer.channels]
        more = [self._node.channel(name) for name in given]
        session = None
        goes_to = next((channel for asked, channel in channels if asked is target), None)
        identity = grant.identity
        named = (goes_to is not None and not goes_to.native) or any(
            channel.presence for channel in (*(channel for _, channel in channels), *more)
        )
        person = identity.user is not None or identity.expires is not None
        if named or person or not self._node.direct or self.sessions is not None:
            session = self._session(conn, request, grant, json=False)
            if session is None:
                return
            session.target = goes_to
        assert request.accept is not None, "only valid upgrades come here"
        sender = session.sender if session is not None else None
        if not self._reactor.open(conn, request.accept, offer.answer, FORMAT_RAW, session, sender):
            return
        for asked, channel in channels:
            begun = self._node.subscribe(
                conn,
                channel,
                receives=asked.direction != "send",
                sends=asked is target,
                since=asked.since,
                last=asked.last,
            )
            if begun is not None and session is not None:
                self._node.enter(channel, session.id, session.user, session.info)
        for channel in more:
            if self._node.subscribe(conn, channel, receives=True, sends=False) is not None and session is not None:
                self._node.enter(channel, session.id, session.user, session.info)
        if session is not None:
            self._begun(conn, session, len(channels) + len(more))

    def _open_json(self, conn: int, request: Request, offer: Offer, grant: Grant, given: list[str]) -> None:
        """Connects with what is allowed; refuses only if nothing is."""
        if offer.channels and not given and all(asked.name in grant.refused for asked in offer.channels):
            words = {grant.refused[asked.name] for asked in offer.channels}
            raise Denied("not_authenticated" if words == {"not_authenticated"} else "not_permitted")
        session = self._session(conn, request, grant, json=True)
        assert request.accept is not None, "only valid upgrades come here"
        if session is None or not self._reactor.open(conn, request.accept, offer.answer, FORMAT_JSON, session):
            return
        states = [self._join(conn, session, asked, grant) for asked in offer.channels]
        states += [self.give(conn, session, name) for name in given]
        self._reactor.send(
            conn, events.hello(session.id, session.user, states, self._hello_limits, self._heartbeat_seconds)
        )
        self._begun(conn, session, len(offer.channels) - len(grant.refused) + len(given))

    def _begun(self, conn: int, session: Session, channels: int) -> None:
        if self.sessions is not None:
            self.sessions.opened(conn, session, channels)
        if self._expiry is not None:
            self._expiry.watch(conn, session)

    def _join(self, conn: int, session: Session, asked: ChannelRequest, grant: Grant) -> events.ChannelState:
        word = grant.refused.get(asked.name)
        if word is not None:
            return events.ChannelState(asked.name, asked.index, error=events.channel_error(word))
        channel = self._node.channel(asked.name)
        begun = subscribe_json(self._node, conn, channel, asked)
        if begun is not None:
            self._node.enter(channel, session.id, session.user, session.info)
        return joined(asked, begun or Begun())

    def give(self, conn: int, session: Session, name: str) -> events.ChannelState:
        """Subscribes a JSON session to a channel that it has not asked for; the node has joined it."""
        asked = ChannelRequest(name, None, None, None, events.NOT_ASKED_FOR, name)
        channel = self._node.channel(name)
        begun = subscribe_json(self._node, conn, channel, asked)
        if begun is not None:
            self._node.enter(channel, session.id, session.user, session.info)
            session.given |= {name}
        return joined(asked, begun or Begun())

    def _session(self, conn: int, request: Request, grant: Grant, *, json: bool) -> Session | None:
        session_id = self._reactor.session_id(conn)
        if session_id is None:  # gone while the authority decided
            return None
        identity = grant.identity
        sender = sender_member(session_id, identity.user, identity.info)
        session = Session(session_id, json, sender, identity)
        if json and grant.evidence is not None:
            session.evidence = grant.evidence
            session.origin = None if request.origin is None else request.origin.decode("latin-1")
        return session


def subscribe_json(node: Node, conn: int, channel: Channel, asked: ChannelRequest) -> Begun | None:
    """JSON publishes by commands, so only the direction `send` means something."""
    receives = asked.direction != "send"
    return node.subscribe(conn, channel, receives=receives, sends=False, since=asked.since, last=asked.last)


def joined(asked: ChannelRequest, begun: Begun) -> events.ChannelState:
    """A channel that was joined, and where in its history the client stands before the first message that follows."""
    return events.ChannelState(asked.name, asked.index, begun.position, begun.recovered)


def _target(channels: tuple[ChannelRequest, ...]) -> ChannelRequest | None:
    """Where a raw connection publishes: its only channel unless that is marked recv, of several the one marked send
    or both.
    """
    if len(channels) == 1:
        return channels[0] if channels[0].direction != "recv" else None
    marked = [asked for asked in channels if asked.direction in ("send", "both")]
    if len(marked) > 1:
        raise Denied("bad_offer", f"offer[{marked[1].index}]: only one channel may be marked send or both")
    return marked[0] if marked else None
