"""From a request head to a session: who gets which answer, and what is joined before the page hears of it."""

import json
from typing import Any

import pytest

from broker.auth.identity import Identity
from broker.auth.origin import OriginRule
from broker.gateway.authority import Grant
from broker.gateway.opening import FORMAT_JSON, FORMAT_RAW, Denied, Opening
from broker.gateway.refusals import Refusals
from broker.gateway.session import Session
from broker.native._request import Request
from broker.protocol.events import Limits
from broker.protocol.names import NameRule
from broker.protocol.offer import Offer, OfferRules
from tests.integration.harness import ACCEPT, JSON
from tests.unit.gateway.fakes import CONN, EVERYTHING, FakeEngine, FakeReactor, as_reactor, node_with, upgrade

BROWSER = "http://localhost:3000"


class Says:
    """An authority with one answer."""

    def __init__(self, answer: Grant | Exception) -> None:
        self.answer = answer
        self.asked: list[Offer] = []

    async def admit(self, request: Request, offer: Offer) -> Grant:
        self.asked.append(offer)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def reactor() -> FakeReactor:
    return FakeReactor()


def opening(
    reactor: FakeReactor, authority: Says | None = None, *, direct: bool = True, style: str = "auto"
) -> Opening:
    return Opening(
        as_reactor(reactor),
        node_with(reactor, FakeEngine(direct)),
        authority or EVERYTHING,
        OriginRule([], dev=True, allow_absent=True),
        Refusals(style, 2, 1.0, 3.0),
        OfferRules(NameRule(""), 4096, 4),
        Limits(65536, 4),
        25.0,
    )


def problem_of(reactor: FakeReactor) -> tuple[dict[str, Any], str]:
    """The one answer was an HTTP problem: the document, and the cause it is counted under."""
    response, cause = reactor.only("respond")
    return json.loads(response.partition(b"\r\n\r\n")[2]), cause


async def test_a_raw_page_of_nobody_in_particular_costs_no_session(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade("news"))
    assert reactor.only("open") == (ACCEPT.encode(), b"news", FORMAT_RAW, None, None)
    assert reactor.joined == {b"news": (True, True)}


@pytest.mark.parametrize(
    ("offer", "joined"),
    [
        ("news|recv", {b"news": (True, False)}),
        ("news|send", {b"news": (False, True)}),
        ("news|both", {b"news": (True, True)}),
        ("a, b", {b"a": (True, False), b"b": (True, False)}),
        ("a, b|both", {b"a": (True, False), b"b": (True, True)}),
        ("a|send, b", {b"a": (False, True), b"b": (True, False)}),
        ("a|recv, b|recv", {b"a": (True, False), b"b": (True, False)}),
    ],
)
async def test_a_raw_page_publishes_where_it_says_and_hears_the_rest(
    reactor: FakeReactor, offer: str, joined: dict[bytes, tuple[bool, bool]]
) -> None:
    await opening(reactor).open(CONN, upgrade(offer))
    assert reactor.joined == joined


async def test_two_channels_marked_to_publish_are_refused_by_the_second_ones_index(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade("a|send, b, c|both"))
    document, cause = problem_of(reactor)
    assert (document["status"], document["code"], cause) == (400, "bad_offer", "bad_offer")
    assert document["detail"].startswith("offer[2]: only one channel")
    assert reactor.joined == {}


async def test_nothing_offered_is_a_raw_connection_without_channels(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade())
    assert reactor.only("open")[1:3] == (None, FORMAT_RAW)
    assert reactor.joined == {}


async def test_a_json_page_is_joined_and_then_told_so(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade(f"news, {JSON}, room%3A42|send"))
    opened, said = reactor.calls
    assert opened.verb == "open"
    assert opened.given[1:3] == (JSON.encode(), FORMAT_JSON)
    session = opened.given[3]
    assert isinstance(session, Session)
    assert (session.json, session.sender) == (True, b',"from":{"session":"session-0123abcd"}')
    assert reactor.joined == {b"news": (True, False), b"room:42": (False, False)}
    hello = json.loads(said.given[0])
    assert hello == {
        "type": "hello",
        "session": "session-0123abcd",
        "user": None,
        "channels": [{"channel": "news", "index": 0}, {"channel": "room:42", "index": 2}],
        "limits": {"max_message_bytes": 65536, "max_channels": 4},
        "heartbeat_seconds": 25.0,
    }


async def test_a_page_that_asks_for_history_is_told_that_it_got_none(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade(f"{JSON}, a|since.8f3a.1, b|last.5, c"))
    channels = json.loads(reactor.calls[1].given[0])["channels"]
    assert [channel.get("recovered") for channel in channels] == [False, False, None]


async def test_the_query_is_the_same_door(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade(target="/ws?format=json&channel=news"))
    assert reactor.calls[0].given[1:3] == (None, FORMAT_JSON)
    assert reactor.joined == {b"news": (True, False)}


async def test_a_known_user_stands_in_hello_and_in_what_it_publishes(reactor: FakeReactor) -> None:
    await opening(reactor, Says(Grant(Identity('ann "q"')))).open(CONN, upgrade(f"{JSON}, news"))
    session = reactor.calls[0].given[3]
    assert json.loads("{" + session.sender[1:].decode() + "}")["from"] == {
        "session": "session-0123abcd",
        "user": 'ann "q"',
    }
    assert json.loads(reactor.calls[1].given[0])["user"] == 'ann "q"'


@pytest.mark.parametrize("direct", [True, False])
async def test_a_raw_session_is_kept_where_python_has_to_publish_for_it(reactor: FakeReactor, direct: bool) -> None:
    await opening(reactor, Says(Grant(Identity("ann"))), direct=direct).open(CONN, upgrade("a, b|both"))
    session, sender = reactor.only("open")[3:]
    assert (session.json, session.user, session.target.name) == (False, "ann", b"b")
    assert sender == session.sender


async def test_an_engine_elsewhere_needs_the_session_of_the_anonymous_too(reactor: FakeReactor) -> None:
    await opening(reactor, direct=False).open(CONN, upgrade("news|recv"))
    session = reactor.only("open")[3]
    assert (session.user, session.target) == (None, None)


@pytest.mark.parametrize("offer", ["news|frob", "$system", "news, n%65ws", JSON + "x"])
async def test_a_bad_offer_is_never_brought_before_the_authority(reactor: FakeReactor, offer: str) -> None:
    authority = Says(Grant())
    await opening(reactor, authority).open(CONN, upgrade(offer))
    document, cause = problem_of(reactor)
    assert (document["status"], document["code"], cause) == (400, "bad_offer", "bad_offer")
    assert document["detail"].startswith("offer[")
    assert authority.asked == []


async def test_a_browser_reads_its_refusal_from_a_close_that_is_held_back(reactor: FakeReactor) -> None:
    await opening(reactor).open(CONN, upgrade("news|frob", origin=BROWSER))
    accept, protocol, payload, cause, seconds = reactor.only("hold")
    assert (accept, protocol, cause) == (ACCEPT.encode(), b"news|frob", "bad_offer")
    assert int.from_bytes(payload[:2]) == 4500
    assert payload[2:].startswith(b"code=bad_offer;offer[0]: ")
    assert 1.0 <= seconds <= 3.0


async def test_a_browser_that_is_refused_again_and_again_gets_a_plain_status(reactor: FakeReactor) -> None:
    door = opening(reactor)
    for _ in range(3):
        await door.open(CONN, upgrade("news|frob", origin=BROWSER))
    assert [call.verb for call in reactor.calls] == ["hold", "hold", "respond"]


@pytest.mark.parametrize(
    ("word", "status", "code"),
    [
        ("not_authenticated", 401, 4501),
        ("token_expired", 401, 4219),
        ("not_permitted", 403, 4503),
        ("disconnected_by_operator", 403, 4510),
        ("bad_offer", 400, 4500),
        ("rate_limited", 429, 4129),
        ("overloaded", 503, 1013),
    ],
)
@pytest.mark.parametrize("offer", ["news", f"{JSON}, news"])
async def test_who_is_denied_is_told_why_at_either_door(
    reactor: FakeReactor, offer: str, word: str, status: int, code: int
) -> None:
    authority = Says(Denied(word, "in other words"))
    await opening(reactor, authority).open(CONN, upgrade(offer))
    document, cause = problem_of(reactor)
    assert (document["status"], document["code"], document["detail"], cause) == (status, word, "in other words", word)
    reactor.calls.clear()
    await opening(reactor, authority).open(CONN, upgrade(offer, origin=BROWSER))
    payload = reactor.only("hold")[2]
    assert payload == code.to_bytes(2) + f"code={word};in other words".encode()
    assert reactor.joined == {}


async def test_one_channel_that_is_refused_refuses_a_raw_page_by_index(reactor: FakeReactor) -> None:
    await opening(reactor, Says(Grant(refused={"secret": "not_permitted"}))).open(CONN, upgrade("news, secret"))
    document, _ = problem_of(reactor)
    assert document["detail"] == "offer[1]: not allowed for this connection"
    assert reactor.joined == {}


async def test_one_channel_that_is_refused_is_left_out_in_json(reactor: FakeReactor) -> None:
    grant = Grant(refused={"secret": "not_permitted"})
    await opening(reactor, Says(grant)).open(CONN, upgrade(f"{JSON}, secret, news"))
    channels = json.loads(reactor.calls[1].given[0])["channels"]
    assert channels[0]["error"] == {"code": "not_permitted", "message": "not allowed for this connection"}
    assert "error" not in channels[1]
    assert reactor.joined == {b"news": (True, False)}


async def test_json_is_refused_if_nothing_is_left(reactor: FakeReactor) -> None:
    await opening(reactor, Says(Grant(refused={"secret": "not_permitted"}))).open(CONN, upgrade(f"{JSON}, secret"))
    assert problem_of(reactor)[0]["status"] == 403


@pytest.mark.parametrize("offer", ["news", f"{JSON}, news"])
@pytest.mark.parametrize(
    "answer", [Grant(Identity("ann")), Grant(), Denied("not_permitted")], ids=["user", "anybody", "denied"]
)
async def test_a_connection_that_is_gone_is_neither_joined_nor_told(
    reactor: FakeReactor, offer: str, answer: Grant | Exception
) -> None:
    reactor.here.clear()
    await opening(reactor, Says(answer)).open(CONN, upgrade(offer, origin=BROWSER))
    assert (reactor.calls, reactor.joined) == ([], {})


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [(None, True), (BROWSER, True), ("http://127.0.0.1", True), ("https://evil.test", False), ("null", False)],
)
def test_pages_of_other_sites_stay_outside(reactor: FakeReactor, origin: str | None, allowed: bool) -> None:
    assert opening(reactor).origin_allowed(upgrade("news", origin=origin)) is allowed
