"""The commands `auth` and `refresh`: a session becomes somebody, or stays who it is for longer.

Whatever it is subscribed to is judged again by the new identity; what that does not permit is taken away and said so.
"""

from collections.abc import Awaitable

from broker.auth.identity import AuthError, Identity
from broker.engine.base import EngineError
from broker.gateway.authority import Gatekeeper
from broker.gateway.expiry import Expiry
from broker.gateway.opening import Denied, Opening
from broker.gateway.session import Session
from broker.native._reactor import Reactor
from broker.node import Node
from broker.protocol import events
from broker.protocol.commands import Authenticate, CommandError, Refresh
from broker.protocol.errors import ERRORS


class Identifying:
    def __init__(self, reactor: Reactor, node: Node, gatekeeper: Gatekeeper, opening: Opening, expiry: Expiry) -> None:
        self._reactor = reactor
        self._node = node
        self._gatekeeper = gatekeeper
        self._opening = opening
        self._expiry = expiry

    def watch(self, conn: int, session: Session) -> None:
        """The identity of a session has changed, and with it when it ends."""
        self._expiry.watch(conn, session)

    async def run(self, conn: int, session: Session, command: Authenticate | Refresh) -> None:
        """Raises CommandError; nothing of the session has changed then."""
        if not self._gatekeeper.takes_tokens:
            raise CommandError("not_supported", "this server takes no tokens", command.id)
        try:
            identity = await self._gatekeeper.verify(command.token)
            if identity.info is not None:
                self._opening.check_info(identity.info)
        except (AuthError, Denied) as error:
            word = error.word if error.word in ERRORS else "not_authenticated"
            raise CommandError(word, error.text, command.id) from None
        user = session.user
        if user is None and type(command) is Refresh:
            raise CommandError("not_authenticated", "there is no identity to refresh; use auth", command.id)
        if user is not None and user != identity.user:
            raise CommandError("other_identity", id=command.id)
        had = session.identity.subs
        session.become(identity)
        # As at connect: whoever has a token is judged by it. A site's word would outlive it.
        session.evidence = None
        self._reactor.send(conn, events.known(identity.user, command.id))
        self._take_away(conn, session, had)
        if user is None:
            self._introduce(conn, session)
        await self._give(conn, session, identity)
        self._expiry.watch(conn, session)

    def _take_away(self, conn: int, session: Session, had: tuple[str, ...]) -> None:
        """`had`: what the identity of before gave. What the operator has given stays."""
        keeps = session.given.difference(had).union(self._opening.given(session.identity, ()))
        states: list[events.ChannelState] = []
        for raw in self._reactor.subscriptions(conn):
            name = raw.decode()
            if name in session.given and name in keeps:
                continue
            session.given -= {name}
            # Whoever subscribed to publish only is asked at each publish.
            word = self._gatekeeper.permissions.subscribe(session.identity, name)
            if word is not None and self._node.unsubscribe(conn, name):
                self._node.exit(name, session.id)
                states.append(events.ChannelState(name, events.NOT_ASKED_FOR, error=events.channel_error(word)))
        if states:
            self._reactor.send(conn, events.unsubscribed(states))

    def _introduce(self, conn: int, session: Session) -> None:
        """Where it was present as nobody in particular, it is now present as a user."""
        for raw in self._reactor.subscriptions(conn):
            channel = self._node.channel(raw.decode())
            if channel.presence:
                self._node.exit(raw.decode(), session.id)
                self._node.enter(channel, session.id, session.user, session.info)

    async def _give(self, conn: int, session: Session, identity: Identity) -> None:
        has = tuple(raw.decode() for raw in self._reactor.subscriptions(conn))
        given = self._opening.given(identity, has)
        joining: list[Awaitable[None]] = []
        states: list[events.ChannelState] = []
        try:
            for name in given:
                interest = self._node.join(self._node.channel(name))
                if interest is not None:
                    joining.append(interest)
            for interest in joining:
                await interest
        except EngineError as error:
            states = [
                events.ChannelState(name, events.NOT_ASKED_FOR, error=events.channel_error(error.word))
                for name in given
            ]
        else:
            states = [self._opening.give(conn, session, name) for name in given]
        if states:
            self._reactor.send(conn, events.subscribed(states))
