"""Commands of the JSON format and raw messages on Python's way: what is done, what is answered, what closes."""

import asyncio
import json
from typing import Any

import pytest

from broker.auth.identity import Identity
from broker.engine.base import EngineError, Publication, Receipt
from broker.gateway.commands import Commands
from broker.gateway.session import Session, sender_member
from broker.node import KIND_BINARY, KIND_JSON, KIND_TEXT, Channel
from broker.protocol.names import NameRule
from broker.protocol.offer import OfferRules
from tests.unit.gateway.fakes import CONN, FakeEngine, FakeReactor, commands_over, node_with

SENDER = sender_member("session-0123abcd", "ann")
SESSION = Session("session-0123abcd", True, SENDER, Identity("ann"))


@pytest.fixture
def reactor() -> FakeReactor:
    return FakeReactor()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def commands(reactor: FakeReactor, engine: FakeEngine) -> Commands:
    return commands_over(reactor, node_with(reactor, engine), OfferRules(NameRule(""), 4096, 3))


async def run(commands: Commands, reactor: FakeReactor, **members: object) -> list[dict[str, Any]]:
    """What a command is answered with."""
    reactor.calls.clear()
    await commands.run(CONN, SESSION, json.dumps(members).encode())
    assert {call.verb for call in reactor.calls} <= {"send"}
    return [json.loads(call.given[0]) for call in reactor.calls]


async def test_a_publish_is_sequenced_as_it_came_and_acknowledged(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine
) -> None:
    engine.answer = Receipt(2, "8f3a.7")
    answers = await run(
        commands, reactor, type="publish", channel="news", data={"a": [1]}, id="i", message_id='"m', echo=False
    )
    assert answers == [{"type": "ack", "id": "i", "position": "8f3a.7", "subscriptions": 2}]
    (taken,) = engine.taken
    own_id = taken.message_id
    assert taken == Publication(b"news", KIND_JSON, b'{"a": [1]}', SENDER + b',"id":"\\"m"', CONN, False, own_id)
    assert own_id is not None
    assert own_id.endswith('\0"m')  # behind whose it is: another user's is another message


@pytest.mark.parametrize(
    ("member", "kind", "payload"),
    [
        ({"text": "grüße"}, KIND_TEXT, "grüße".encode()),
        ({"text": ""}, KIND_TEXT, b""),
        ({"base64": "/wA="}, KIND_BINARY, b"\xff\x00"),
        ({"base64": ""}, KIND_BINARY, b""),
        ({"data": None}, KIND_JSON, b"null"),
        ({"data": "null"}, KIND_JSON, b'"null"'),
    ],
)
async def test_each_kind_of_payload_is_published_as_what_it_is(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine, member: dict[str, object], kind: int, payload: bytes
) -> None:
    assert await run(commands, reactor, type="publish", channel="news", **member) == []
    (publication,) = engine.taken
    assert (publication.kind, publication.payload, publication.echo) == (kind, payload, True)


@pytest.mark.parametrize("id", [0, "", "i", -1])
async def test_an_id_is_given_back_even_when_it_is_falsy(commands: Commands, reactor: FakeReactor, id: object) -> None:
    (ack,) = await run(commands, reactor, type="publish", channel="news", data=1, id=id)
    assert (ack["type"], ack["id"]) == ("ack", id)
    (refused,) = await run(commands, reactor, type="publish", channel="$news", data=1, id=id)
    assert (refused["type"], refused["id"]) == ("error", id)


async def test_whoever_wants_no_answer_gets_none(commands: Commands, reactor: FakeReactor, engine: FakeEngine) -> None:
    assert await run(commands, reactor, type="publish", channel="news", data=1) == []
    assert len(engine.taken) == 1


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"channel": "$news", "data": 1}, "bad_channel"),
        ({"channel": "", "data": 1}, "bad_channel"),
        ({"channel": "news", "base64": "/wA"}, "bad_payload"),
        ({"channel": "news"}, "bad_command"),
        ({"channel": "news", "data": 1, "text": "1"}, "bad_command"),
    ],
)
async def test_a_publish_that_cannot_be_is_answered_and_reaches_nobody(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine, members: dict[str, object], word: str
) -> None:
    (answer,) = await run(commands, reactor, type="publish", id=5, **members)
    assert (answer["type"], answer["code"], answer["id"]) == ("error", word, 5)
    assert engine.taken == []


async def test_a_payload_that_some_format_could_not_hold_is_answered(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine
) -> None:
    deep = json.loads("[" * 70 + "]" * 70)
    (answer,) = await run(commands, reactor, type="publish", channel="news", data=deep, id=5)
    assert (answer["code"], answer["id"]) == ("bad_payload", 5)
    assert engine.taken == []


@pytest.mark.parametrize("word", ["engine_unavailable", "outcome_unknown"])
@pytest.mark.parametrize("waits", [False, True])
async def test_what_the_engine_says_no_to_is_answered_with_its_word(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine, word: str, waits: bool
) -> None:
    if waits:
        engine.answer = asyncio.get_running_loop().create_future()
        engine.answer.set_exception(EngineError(word))
    else:
        engine.answer = EngineError(word)
    (answer,) = await run(commands, reactor, type="publish", channel="news", data=1, id=5)
    assert (answer["type"], answer["code"], answer["id"]) == ("error", word, 5)


async def test_the_ack_waits_for_the_engine(commands: Commands, reactor: FakeReactor, engine: FakeEngine) -> None:
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    engine.answer = future
    running = asyncio.ensure_future(run(commands, reactor, type="publish", channel="news", data=1, id=5))
    await asyncio.sleep(0)
    assert reactor.calls == []
    future.set_result(Receipt())
    assert await running == [{"type": "ack", "id": 5}]


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"type":1}', b'{"type":"frob"}', b"\xff", b'{"type":"auth"}'])
async def test_what_is_no_command_is_answered_and_nothing_else_happens(
    commands: Commands, reactor: FakeReactor, payload: bytes
) -> None:
    await commands.run(CONN, SESSION, payload)
    (answer,) = [json.loads(call.given[0]) for call in reactor.calls]
    assert answer["type"] == "error"
    assert answer["code"] in ("bad_json", "bad_command", "unknown_type", "not_supported")


async def test_one_frame_restores_every_subscription_and_says_which_failed(
    commands: Commands, reactor: FakeReactor
) -> None:
    wanted = ["a", "b|send", "a", "$x", {"channel": "c:1", "last": 5}, "d"]
    (answer,) = await run(commands, reactor, type="subscribe", channel=wanted, id=1)
    assert (answer["type"], answer["id"]) == ("subscribed", 1)
    told = [(state["channel"], state["index"], state.get("error", {}).get("code")) for state in answer["channels"]]
    assert told == [
        ("a", 0, None),
        ("b", 1, None),
        (None, 2, "duplicate_channel"),
        (None, 3, "bad_channel"),
        ("c:1", 4, None),
        ("d", 5, "too_many_channels"),
    ]
    assert answer["channels"][4]["recovered"] is False
    # In the JSON format a publish names its channel: no subscription is where messages go by themselves.
    assert reactor.joined == {b"a": (True, False), b"b": (False, False), b"c:1": (True, False)}


async def test_subscribing_twice_changes_nothing_and_is_said(commands: Commands, reactor: FakeReactor) -> None:
    await run(commands, reactor, type="subscribe", channel="a")
    (answer,) = await run(commands, reactor, type="subscribe", channel="a|send")
    assert answer["channels"][0]["error"]["code"] == "already_subscribed"
    assert reactor.joined == {b"a": (True, False)}


async def test_one_frame_leaves_several_channels_and_says_which_it_was_not_in(
    commands: Commands, reactor: FakeReactor
) -> None:
    await run(commands, reactor, type="subscribe", channel=["a", "b"])
    (answer,) = await run(commands, reactor, type="unsubscribe", channel=["a", "x", "*"], id="u")
    assert (answer["type"], answer["id"]) == ("unsubscribed", "u")
    assert [state.get("error", {}).get("code") for state in answer["channels"]] == [
        None,
        "not_subscribed",
        "bad_channel",
    ]
    assert reactor.joined == {b"b": (True, False)}


async def test_a_ping_shows_that_commands_are_read(commands: Commands, reactor: FakeReactor) -> None:
    assert await run(commands, reactor, type="ping", id="p") == [{"type": "ack", "id": "p"}]
    assert await run(commands, reactor, type="ping") == [{"type": "ack"}]


async def test_a_client_that_is_gone_is_not_answered_and_its_message_goes_on(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine
) -> None:
    reactor.here.clear()
    assert await run(commands, reactor, type="publish", channel="news", data=1, id=1) == []
    assert len(engine.taken) == 1


# Raw messages whose engine is elsewhere.


def raw(payload_rule: int = 0) -> Session:
    return Session("session-0123abcd", False, SENDER, Identity("ann"), Channel(b"news", 0, payload_rule))


@pytest.mark.parametrize(
    ("rule", "text", "kind"),
    [
        (0, True, KIND_TEXT),
        (0, False, KIND_BINARY),
        (1, True, KIND_JSON),
        (2, True, KIND_TEXT),
        (3, False, KIND_BINARY),
    ],
)
async def test_a_raw_message_is_what_its_channel_takes_it_for(
    commands: Commands, engine: FakeEngine, rule: int, text: bool, kind: int
) -> None:
    await commands.publish_raw(CONN, raw(rule), b"1", text)
    assert engine.taken == [Publication(b"news", kind, b"1", SENDER, CONN)]


@pytest.mark.parametrize(
    ("rule", "text", "payload"), [(1, False, b"1"), (1, True, b"{"), (2, False, b"1"), (3, True, b"1")]
)
async def test_a_raw_message_that_its_channel_does_not_take_closes(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine, rule: int, text: bool, payload: bytes
) -> None:
    await commands.publish_raw(CONN, raw(rule), payload, text)
    closed, cause = reactor.only("close")
    assert (int.from_bytes(closed[:2]), cause) == (4522, "bad_payload")
    assert engine.taken == []


async def test_a_raw_message_that_the_engine_refuses_closes_so_that_the_page_comes_back_later(
    commands: Commands, reactor: FakeReactor, engine: FakeEngine
) -> None:
    engine.answer = EngineError("engine_unavailable")
    await commands.publish_raw(CONN, raw(), b"1", True)
    closed, cause = reactor.only("close")
    assert (int.from_bytes(closed[:2]), cause) == (4103, "engine_unavailable")
