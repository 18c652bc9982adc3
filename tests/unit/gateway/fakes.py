"""What the gateway's parts call, as far as they call it: a reactor that remembers, an engine told what to answer."""

import asyncio
from collections.abc import Awaitable
from typing import Any, NamedTuple, cast

from broker.auth.origin import OriginRule
from broker.auth.permissions import Permissions
from broker.config.schema import Auth, ChannelPolicy
from broker.engine.base import HistoryRule, Holdings, Joined, Member, Present, Publication, Receipt
from broker.gateway.authority import Gatekeeper
from broker.gateway.commands import Commands
from broker.gateway.expiry import Expiry
from broker.gateway.identifying import Identifying
from broker.gateway.opening import Opening
from broker.gateway.refusals import Refusals, cause_word
from broker.native._linked import Linked
from broker.native._reactor import Reactor
from broker.native._request import Request, parse
from broker.node import Node
from broker.protocol.events import Limits
from broker.protocol.offer import OfferRules
from tests.integration.harness import request

CONN = 2**32 + 5


class Call(NamedTuple):
    """One verb of the reactor, with what it was given after the connection's id."""

    verb: str
    conn: int
    given: tuple[Any, ...]


class FakeReactor:
    """Every connection in `here` exists. A verb on another one does nothing and says so, as the real one's do."""

    def __init__(self) -> None:
        self.here = {CONN}
        self.calls: list[Call] = []
        self.counted: list[int] = []
        self.joined: dict[bytes, tuple[bool, bool]] = {}
        self.peer: str | None = "192.0.2.7"
        self.raises: Exception | None = None

    def _did(self, verb: str, conn: int, *given: object) -> bool:
        if conn not in self.here:
            return False
        if self.raises is not None:
            raise self.raises
        self.calls.append(Call(verb, conn, given))
        return True

    def open(
        self,
        conn: int,
        accept: bytes,
        protocol: bytes | None,
        format: int,
        session: object = None,
        sender: bytes | None = None,
    ) -> bool:
        return self._did("open", conn, accept, protocol, format, session, sender)

    def hold(
        self, conn: int, accept: bytes, protocol: bytes | None, payload: bytes, cause: int, seconds: float
    ) -> bool:
        return self._did("hold", conn, accept, protocol, payload, cause_word(cause), seconds)

    def respond(self, conn: int, response: bytes, cause: int) -> bool:
        return self._did("respond", conn, response, cause_word(cause))

    def send(self, conn: int, payload: bytes) -> bool:
        return self._did("send", conn, payload)

    def close(self, conn: int, payload: bytes, cause: int) -> bool:
        return self._did("close", conn, payload, cause_word(cause))

    def close_later(self, conn: int, payload: bytes, cause: int, seconds: float) -> bool:
        return self._did("close_later", conn, payload, cause_word(cause), seconds)

    def resume(self, conn: int) -> bool:
        return self._did("resume", conn)

    def report(self, error: BaseException) -> None:
        self.calls.append(Call("report", 0, (error,)))

    def count_message(self, pattern: int) -> None:
        self.counted.append(pattern)

    def subscribe(
        self, conn: int, name: bytes, policy: int, payload: int, receives: bool, sends: bool, pattern: int = 0
    ) -> bool:
        if conn not in self.here or name in self.joined:
            return False
        self.joined[name] = (receives, sends)
        return True

    def unsubscribe(self, conn: int, name: bytes) -> bool:
        return conn in self.here and self.joined.pop(name, None) is not None

    def subscriptions(self, conn: int) -> list[bytes]:
        return list(self.joined)

    def publish(self, conn: int, name: bytes, kind: int, payload: bytes, extra: bytes, echo: bool) -> int:
        raise AssertionError("the engine of these tests delivers nothing")

    def session_id(self, conn: int) -> str | None:
        return "session-0123abcd" if conn in self.here else None

    def address(self, conn: int) -> str | None:
        return self.peer if conn in self.here else None

    @property
    def now_ns_since_start(self) -> int:
        return 0

    def only(self, verb: str) -> tuple[Any, ...]:
        """What the one call there was, was given."""
        (call,) = self.calls
        assert call.verb == verb, call
        return call.given


class FakeEngine:
    """Remembers publications; answers with `answer`, which may be an error or have to be waited for."""

    def __init__(self, direct: bool = True) -> None:
        self.direct = self.local = direct
        self.taken: list[Publication] = []
        self.answer: Receipt | asyncio.Future[Receipt] | Exception = Receipt(2)
        self.present: dict[tuple[bytes, str], Member] = {}

    def publish(self, publication: Publication) -> Receipt | Awaitable[Receipt]:
        self.taken.append(publication)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def start(self, native: Linked) -> None:
        """Nothing has to be connected."""

    async def usable(self) -> None:
        """At once."""

    def holdings(self) -> Holdings | None:
        return None

    async def ask_all(self, question: bytes) -> list[bytes]:
        raise AssertionError("nobody asks here")

    async def stop(self) -> None:
        """Nothing is open."""

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        return Joined()

    def leave(self, channel: bytes) -> None:
        """Nothing is kept for a channel."""

    def enter(self, channel: bytes, member: Member) -> None:
        self.present[channel, member.session] = member

    def exit(self, channel: bytes, session: str) -> None:
        del self.present[channel, session]

    def presence(self, channel: bytes) -> Present:
        here = tuple(member.body for (name, _), member in self.present.items() if name == channel)
        return Present(here, len(here), False)


def as_reactor(fake: FakeReactor) -> Reactor:
    return cast("Reactor", fake)


def node_with(reactor: FakeReactor, engine: FakeEngine) -> Node:
    """Channels `room.*` have presence."""
    return Node(as_reactor(reactor), lambda sink: engine, {"room.*": ChannelPolicy(presence=True)}, 64)


def upgrade(offer: str | None = None, target: str = "/ws", origin: str | None = None) -> Request:
    parsed = parse(request(target, offer=offer, origin=origin))
    assert parsed.status == 101, parsed.problem
    return parsed


EVERYTHING = Gatekeeper(Permissions({}, open=True))


def commands_over(reactor: FakeReactor, node: Node, rules: OfferRules, gatekeeper: Gatekeeper = EVERYTHING) -> Commands:
    """Commands with what stands behind them."""
    native = as_reactor(reactor)
    expiry = Expiry(native, Auth())
    opening = Opening(
        native,
        node,
        gatekeeper,
        OriginRule(dev=True),
        Refusals("http", 2, 1.0, 3.0),
        rules,
        Limits(65536, rules.max_channels),
        25.0,
        permissions=gatekeeper.permissions,
        expiry=expiry,
    )
    return Commands(native, node, rules, gatekeeper, Identifying(native, node, gatekeeper, opening, expiry))
