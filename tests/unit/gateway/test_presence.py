"""Who becomes a member and who stops being one, who may ask, and what others are shown."""

import asyncio
import json
from typing import Any

import pytest

from broker.auth.identity import Identity
from broker.auth.origin import OriginRule
from broker.engine.base import EngineError, Member, Present
from broker.gateway.authority import Grant
from broker.gateway.opening import FORMAT_RAW, Opening
from broker.gateway.refusals import Refusals
from broker.gateway.session import Session, sender_member
from broker.protocol.events import Limits
from broker.protocol.names import NameRule
from broker.protocol.offer import Offer, OfferRules
from tests.integration.harness import JSON
from tests.unit.gateway.fakes import CONN, FakeEngine, FakeReactor, as_reactor, commands_over, node_with, upgrade

ID = "session-0123abcd"
INFO = b'{"name":"Ann"}'
ANN = b'{"user":"ann","info":{"name":"Ann"}}'
RULES = OfferRules(NameRule(""), 4096, 4)


class Says:
    def __init__(self, grant: Grant) -> None:
        self.grant = grant

    async def admit(self, request: object, offer: Offer) -> Grant:
        return self.grant


class Parts:
    """An opening and commands over one node."""

    def __init__(self, grant: Grant) -> None:
        self.reactor, self.engine = FakeReactor(), FakeEngine()
        node = node_with(self.reactor, self.engine)
        self.commands = commands_over(self.reactor, node, RULES)
        self.opening = Opening(
            as_reactor(self.reactor),
            node,
            Says(grant),
            OriginRule([], dev=True, allow_absent=True),
            Refusals("http", 2, 1.0, 3.0),
            RULES,
            Limits(65536, 4),
            25.0,
            32,
        )
        self.session = Session(ID, True, sender_member(ID, grant.identity.user, grant.identity.info), grant.identity)

    async def open(self, offer: str) -> None:
        await self.opening.open(CONN, upgrade(offer))

    async def answer(self, **command: object) -> dict[str, Any]:
        self.reactor.calls.clear()
        await self.commands.run(CONN, self.session, json.dumps(command).encode())
        answer: dict[str, Any] = json.loads(self.reactor.only("send")[0])
        return answer


@pytest.fixture
def parts() -> Parts:
    return Parts(Grant(Identity("ann", INFO)))


async def test_whoever_subscribes_by_whatever_door_is_a_member_until_it_unsubscribes(parts: Parts) -> None:
    await parts.open(f"{JSON}, room.1, news")
    assert parts.engine.present == {(b"room.1", ID): Member(ID, "ann", ANN)}
    await parts.answer(type="subscribe", channel=["room.2", "room.1", "$bad"])
    assert list(parts.engine.present) == [(b"room.1", ID), (b"room.2", ID)]
    await parts.answer(type="unsubscribe", channel=["room.1", "room.7", "news"])
    assert list(parts.engine.present) == [(b"room.2", ID)]


async def test_a_session_that_ends_leaves_every_channel(parts: Parts) -> None:
    await parts.open(f"{JSON}, room.1, room.2")
    parts.commands.ended(parts.session)
    assert parts.engine.present == {}


async def test_a_channel_that_was_refused_has_no_member_by_it() -> None:
    parts = Parts(Grant(Identity("ann"), {"room.1": "not_permitted"}))
    await parts.open(f"{JSON}, room.1, room.2")
    assert list(parts.engine.present) == [(b"room.2", ID)]


async def test_a_raw_page_is_a_member_and_has_a_session_for_it() -> None:
    parts = Parts(Grant())
    await parts.open("room.1")
    _, _, format, session, sender = parts.reactor.only("open")
    assert format == FORMAT_RAW
    assert isinstance(session, Session)
    assert sender == session.sender
    body = b'{"user":null,"session":"session-0123abcd"}'
    assert parts.engine.present == {(b"room.1", ID): Member(ID, None, body)}


async def test_a_subscriber_learns_who_is_there(parts: Parts) -> None:
    await parts.open(f"{JSON}, room.1")
    assert await parts.answer(type="presence", channel="room.1", id=0) == {
        "type": "presence",
        "channel": "room.1",
        "members": [{"user": "ann", "info": {"name": "Ann"}}],
        "count": 1,
        "id": 0,
    }


async def test_the_answer_waits_for_an_engine_elsewhere(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: asyncio.Future[Present] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(parts.engine, "presence", lambda channel: asked)
    await parts.open(f"{JSON}, room.1")
    answer = asyncio.ensure_future(parts.answer(type="presence", channel="room.1"))
    await asyncio.sleep(0)
    assert not answer.done()
    asked.set_result(Present((ANN,), 5, True))
    assert (await answer)["truncated"] is True


async def test_without_its_engine_nobody_knows_who_is_there(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(channel: bytes) -> Present:
        raise EngineError("engine_unavailable")

    monkeypatch.setattr(parts.engine, "presence", gone)
    await parts.open(f"{JSON}, room.1")
    answer = await parts.answer(type="presence", channel="room.1", id=1)
    assert (answer["type"], answer["code"], answer["id"]) == ("error", "engine_unavailable", 1)


@pytest.mark.parametrize(
    ("channel", "word"), [("room.2", "not_subscribed"), ("news", "not_supported"), ("$x", "bad_channel")]
)
async def test_others_learn_nothing(parts: Parts, channel: str, word: str) -> None:
    await parts.open(f"{JSON}, room.1, news")
    answer = await parts.answer(type="presence", channel=channel, id="i")
    assert (answer["type"], answer["code"], answer["id"]) == ("error", word, "i")


@pytest.mark.parametrize(
    "info",
    [b"{", b"", b"\xff", b'"\\ud800"', b'"' + b"x" * 31 + b'"', b"[" * 16 + b"1" * 5, b'{"a":1},"user":"bob"'],
)
async def test_info_that_would_break_the_frames_of_others_admits_nobody(info: bytes) -> None:
    parts = Parts(Grant(Identity("ann", info)))
    await parts.open(f"{JSON}, room.1")
    assert parts.reactor.only("respond")[1] == "not_authenticated"
    assert parts.engine.present == {}


async def test_info_of_the_largest_size_is_taken() -> None:
    parts = Parts(Grant(Identity("ann", b'"' + b"x" * 30 + b'"')))
    await parts.open(f"{JSON}, room.1")
    assert list(parts.engine.present) == [(b"room.1", ID)]


def test_messages_of_a_session_carry_its_info() -> None:
    assert sender_member(ID, "ann", INFO) == b',"from":{"session":"%s","user":"ann","info":%s}' % (ID.encode(), INFO)
