"""Commands of `broker.json.v1`, and raw messages that the native core does not publish by itself.

The gateway runs one at a time for each connection. A command that cannot be carried out is answered with an `error`
event; only what breaks the format itself (a binary frame) closes the connection.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from broker.auth.identity import AuthError
from broker.engine.base import EngineError, Present, Receipt
from broker.gateway.authority import Gatekeeper
from broker.gateway.identifying import Identifying
from broker.gateway.opening import joined, subscribe_json
from broker.gateway.refusals import CAUSE_OF, close_payload
from broker.gateway.session import Session
from broker.native._reactor import Reactor
from broker.node import KIND_BINARY, KIND_JSON, KIND_TEXT, Channel, Node, PayloadError
from broker.protocol import events
from broker.protocol.close_codes import BY_WORD
from broker.protocol.commands import (
    Authenticate,
    Command,
    CommandError,
    History,
    Ping,
    Presence,
    Publish,
    Refresh,
    Subscribe,
    Unsubscribe,
    decode,
    decode_base64,
    requests,
)
from broker.protocol.offer import ChannelRequest, OfferError, OfferRules, check_name, check_position
from broker.recovery.replays import envelope

# Buckets that one session has at a time, and the age at which one is full again whatever its rate from 1/60 up.
MOST_ALLOWANCES = 256
ALLOWANCE_SECONDS = 60.0

_ENGINE_WORDS = ("engine_unavailable", "outcome_unknown")
_NOT_JOINED = "the channel cannot be joined now; try again later"


class Commands:
    def __init__(
        self,
        reactor: Reactor,
        node: Node,
        rules: OfferRules,
        gatekeeper: Gatekeeper,
        identifying: Identifying,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._node = node
        self._rules = rules
        self._gatekeeper = gatekeeper
        self._permissions = gatekeeper.permissions
        self._identifying = identifying
        self._clock = clock

    async def run(self, conn: int, session: Session, payload: bytes) -> None:
        """Carries out one JSON command and answers it."""
        id: str | int | None = None
        try:
            command = decode(payload)
            id = command.id
            if type(command) is Publish:
                receipt = self._publish(conn, session, command)
                if not isinstance(receipt, Receipt):
                    receipt = await receipt
                if id is not None:
                    self._reactor.send(conn, events.ack(id, receipt.position, receipt.subscriptions))
            elif type(command) is History:
                await self._history(conn, session, command)
            elif type(command) is Subscribe:
                await self._subscribe_all(conn, session, command)
            elif type(command) is Authenticate or type(command) is Refresh:
                await self._identifying.run(conn, session, command)
            elif type(command) is Presence:
                present = self._presence(conn, session, command)
                if not isinstance(present, Present):
                    present = await present
                self._reactor.send(
                    conn,
                    events.presence(command.channel, present.members, present.count, present.truncated, command.id),
                )
            else:
                self._other(conn, session, command)
        except CommandError as error:
            self._reactor.send(conn, events.error(error.word, error.text, error.id if error.id is not None else id))
        except (PayloadError, EngineError) as error:
            self._reactor.send(conn, events.error(error.word, getattr(error, "text", None), id))

    def _publish(self, conn: int, session: Session, command: Publish) -> Receipt | Awaitable[Receipt]:
        channel = self._channel(command)
        word = self._permissions.publish(session.identity, command.channel)
        if word is None and channel.rate and not self._within_rate(session, channel):
            word = "rate_limited"
        if word is not None:
            raise CommandError(word, id=command.id)
        kind, payload = _payload(command)
        extra = session.sender
        if command.message_id is not None:
            extra += b',"id":' + msgspec.json.encode(command.message_id)
        return self._node.publish(
            channel, kind, payload, extra, conn, command.echo, _own_id(session, command.message_id)
        )

    def _within_rate(self, session: Session, channel: Channel) -> bool:
        """A token bucket that holds one second's messages, and one at least."""
        now = self._clock()
        if session.allowances is None:
            session.allowances = {}
        left, since = session.allowances.get(channel.name, (max(1.0, channel.rate), now))
        left = min(max(1.0, channel.rate), left + (now - since) * channel.rate)
        if left < 1.0:
            return False
        if len(session.allowances) >= MOST_ALLOWANCES:
            # Full ones say nothing that a new one would not say.
            session.allowances = {
                name: row for name, row in session.allowances.items() if now - row[1] < ALLOWANCE_SECONDS
            }
        session.allowances[channel.name] = (left - 1.0, now)
        return True

    def _channel(self, command: Publish | History) -> Channel:
        channel = self._node.known.get(command.channel)
        if channel is None:
            try:
                channel = self._node.channel(check_name(command.channel, self._rules))
            except OfferError as error:
                raise CommandError(error.word, error.text, command.id) from None
        return channel

    async def _history(self, conn: int, session: Session, command: History) -> None:
        """Whoever may subscribe may read; it neither needs nor makes a subscription."""
        channel = self._channel(command)
        word = self._permissions.subscribe(session.identity, command.channel)
        if word is not None and command.channel not in session.given:
            raise CommandError(word, id=command.id)
        if command.since is not None:
            try:
                check_position(command.since)
            except OfferError as error:
                raise CommandError(error.word, error.text, command.id) from None
        if channel.history is None:
            raise CommandError("no_history", id=command.id)
        interest = self._node.join(channel, command.since)
        if interest is not None:
            await interest
        found = self._node.read(channel, command.since, command.limit)
        if found is None:
            raise CommandError("no_history", id=command.id)
        messages = [
            events.message(command.channel, one.kind, one.payload, one.time_ms, envelope(one))
            for one in found.publications
        ]
        recovered = None if command.since is None else found.complete
        self._reactor.send(
            conn, events.history(command.channel, messages, found.position, recovered, found.more, command.id)
        )

    def _presence(self, conn: int, session: Session, command: Presence) -> Present | Awaitable[Present]:
        """Only subscribers who may hear it learn who is there, or whether that can be asked at all."""
        try:
            name = check_name(command.channel, self._rules)
        except OfferError as error:
            raise CommandError(error.word, error.text) from None
        if name.encode() not in self._reactor.subscriptions(conn):
            raise CommandError("not_subscribed")
        # Whoever subscribed to publish only need not have the right to hear.
        word = self._permissions.subscribe(session.identity, name)
        if word is not None and name not in session.given:
            raise CommandError(word)
        channel = self._node.channel(name)
        if not channel.presence:
            raise CommandError("not_supported", "the channel has no presence")
        return self._node.present(channel)

    def _other(self, conn: int, session: Session, command: Command) -> None:
        if type(command) is Unsubscribe:
            names = command.channel if isinstance(command.channel, list) else [command.channel]
            states = [self._unsubscribe(conn, session, name, index) for index, name in enumerate(names)]
            self._reactor.send(conn, events.unsubscribed(states, command.id))
        elif type(command) is Ping:
            self._reactor.send(conn, events.ack(command.id))

    async def _subscribe_all(self, conn: int, session: Session, command: Subscribe) -> None:
        """Joins all channels at once, waits for whatever has to be waited for, and only then subscribes."""
        asked = requests(command, self._rules)
        refused = await self._judge(conn, session, asked)
        has = set(self._reactor.subscriptions(conn))
        room = self._rules.max_channels - len(has)
        joining: list[tuple[int, Awaitable[None]]] = []
        for one in asked:
            if isinstance(one, OfferError) or one.index in refused:
                continue
            channel = self._node.channel(one.name)
            if channel.name in has:
                continue
            room -= 1
            if room < 0:  # not asked for at the engine either
                refused[one.index] = "too_many_channels"
            elif one.direction != "send":
                try:
                    interest = self._node.join(channel, one.since)
                except EngineError as error:
                    refused[one.index] = error.word
                    continue
                if interest is not None:
                    joining.append((one.index, interest))
        for index, interest in joining:
            try:
                await interest
            except EngineError as error:
                refused[index] = error.word
        states = [self._subscribe(conn, session, one, refused.get(one.index)) for one in asked]
        self._reactor.send(conn, events.subscribed(states, command.id))

    async def _judge(self, conn: int, session: Session, asked: Sequence[ChannelRequest | OfferError]) -> dict[int, str]:
        """What is not permitted, by index. With a hook the site is asked for what is a matter of claims."""
        wanted = [one for one in asked if isinstance(one, ChannelRequest)]
        claimed = tuple(one.name for one in wanted if self._permissions.on_claim(one.name))
        unasked = None
        if claimed and session.evidence is not None:
            try:
                await self._gatekeeper.ask_again(session, claimed)
                self._identifying.watch(conn, session)
            except AuthError as error:
                unasked = error.word  # what was granted before still holds
        refused: dict[int, str] = {}
        for one in wanted:
            judge = self._permissions.publish if one.direction == "send" else self._permissions.subscribe
            word = judge(session.identity, one.name)
            if word is not None:
                refused[one.index] = "overloaded" if unasked == "overloaded" and one.name in claimed else word
        return refused

    def _subscribe(
        self, conn: int, session: Session, asked: ChannelRequest | OfferError, refused: str | None
    ) -> events.ChannelState:
        if isinstance(asked, OfferError):
            return events.ChannelState(None, asked.index, error=events.channel_error(asked.word, asked.text))
        if refused is not None:
            text = _NOT_JOINED if refused in _ENGINE_WORDS else None
            return events.ChannelState(asked.name, asked.index, error=events.channel_error(refused, text))
        channel = self._node.channel(asked.name)
        begun = subscribe_json(self._node, conn, channel, asked)
        if begun is None:
            return events.ChannelState(asked.name, asked.index, error=events.channel_error("already_subscribed"))
        self._node.enter(channel, session.id, session.user, session.info)
        return joined(asked, begun)

    def _unsubscribe(self, conn: int, session: Session, name: str, index: int) -> events.ChannelState:
        try:
            check_name(name, self._rules, index)
        except OfferError as error:
            return events.ChannelState(None, index, error=events.channel_error(error.word, error.text))
        if not self._node.unsubscribe(conn, name):
            return events.ChannelState(name, index, error=events.channel_error("not_subscribed"))
        self._node.exit(name, session.id)
        session.given -= {name}
        return events.ChannelState(name, index)

    def ended(self, session: Session) -> None:
        """Its connection is gone."""
        self._node.end(session.id)

    async def publish_raw(self, conn: int, session: Session, payload: bytes, text: bool) -> None:
        """A raw message that needs a place in a history, or whose engine is not in this process.

        There is no event to say no with: it closes.
        """
        channel = session.target
        assert channel is not None, "the gateway closes connections that have no target"
        if channel.rate and not self._within_rate(session, channel):
            self.close(conn, "rate_limited")
            return
        kind = KIND_BINARY
        if text:
            kind = KIND_JSON if channel.payload == 1 else KIND_TEXT
        try:
            receipt = self._node.publish(channel, kind, payload, session.sender, conn)
            if not isinstance(receipt, Receipt):
                await receipt
        except PayloadError as error:
            self.close(conn, "bad_payload", error.text)
        except EngineError as error:
            self.close(conn, error.word)

    def close(self, conn: int, word: str, text: str | None = None) -> None:
        """Closes with the code of that word."""
        self._reactor.close(conn, close_payload(BY_WORD[word], text=text), CAUSE_OF[word])


def _own_id(session: Session, message_id: str | None) -> str | None:
    """A `message_id` as the engine tells it from those of others: nobody takes the place of another user's message, or
    of a back end's, by guessing its id. By user and not by session, so that it holds over a reconnect.
    """
    if message_id is None:
        return None
    user = "" if session.user is None else hashlib.blake2b(session.user.encode(), digest_size=16).hexdigest()
    return f"\0{user}\0{message_id}"


def _payload(command: Publish) -> tuple[int, bytes]:
    if command.text is not None:
        return KIND_TEXT, command.text.encode()
    if command.base64 is not None:
        return KIND_BINARY, decode_base64(command.base64)
    return KIND_JSON, bytes(command.data)
