"""Who a connection is, from its first byte to the end of its token: real sockets, a table in place of tokens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.auth.identity import AuthError, Identity
from broker.gateway.expiry import Expiry
from broker.gateway.session import Session
from tests.client_frames import TEXT, frame
from tests.integration.harness import JSON, Broker, Client, request, running, turns, wait_until

ORIGIN = "https://app.example"
NOW = 1_800_000_000.0
CHANNELS = {
    "public": {"subscribe": "anyone"},
    "open": {"subscribe": "anyone", "publish": "anyone", "messages_per_second": 1.0},
    "members.*": {"subscribe": "authenticated", "publish": "authenticated", "presence": True},
    "room.*": {"subscribe": "claim", "publish": "claim", "history_count": 10},
    "user.{sub}": {"subscribe": "authenticated"},
    "staff": {"subscribe": "server"},
    "letters": {"subscribe": "authenticated", "publish": "anyone", "presence": True},
}
ANN = Identity("ann", b'{"name":"Ann"}', subscribe=("room.1", "room.2"), publish=("room.1",), expires=NOW + 3600)
TOKENS = {
    "ann": ANN,
    "ann-later": Identity("ann", None, subscribe=("room.2",), subs=("staff",), expires=NOW + 7200),
    "ann-short": Identity("ann", expires=NOW + 90),
    "bob": Identity("bob"),
    "staff": Identity("eve", subs=("staff", "user.eve", "user.ann", "nowhere", "$bad")),
}


class Table:
    """Tokens by name. `slow` are verified when the test says so."""

    def __init__(self) -> None:
        self.slow: dict[str, asyncio.Future[None]] = {}
        self.asked: list[str] = []

    def known(self, token: str) -> Identity | None:
        return None

    async def verify(self, token: str) -> Identity:
        self.asked.append(token)
        if token in self.slow:
            await self.slow[token]
        if token == "worn-out":
            raise AuthError("token_expired")
        if token == "cannot":
            raise AuthError("overloaded")
        if token not in TOKENS:
            raise AuthError("not_authenticated", "the signature is wrong")
        return TOKENS[token]


class Site:
    """A hook whose answers are a table by what it is shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, str | None, tuple[str, ...]]] = []
        self.answers: Callable[[tuple[str, ...]], Identity] = lambda channels: Identity("ann", subscribe=channels)

    def evidence(self, headers: tuple[tuple[bytes, bytes], ...], cookies: bool) -> tuple[object, ...]:
        return tuple(value for name, value in headers if name.lower() == b"cookie") if cookies else ()

    async def ask(self, evidence: tuple[object, ...], origin: str | None, channels: tuple[str, ...]) -> Identity:
        self.asked.append((evidence, origin, channels))
        return self.answers(channels)


@asynccontextmanager
async def broker_with(tokens: Table | None = None, hook: Site | None = None, **more: object) -> AsyncIterator[Broker]:
    settings: dict[str, object] = {
        "server_dev": False,
        "server_origins": [ORIGIN],
        "limits_refusal_hold_min_seconds": 0.0,
        "limits_refusal_hold_max_seconds": 0.0,
        "auth_cookie": "token",
        "auth_keys": {"main": {"jwks_url": "https://id.example/keys"}},
        "channels": CHANNELS,
        **more,
    }
    async with running(tokens=tokens, hook=hook, **settings) as broker:  # type: ignore[arg-type]
        yield broker


@pytest.fixture
async def tokens() -> Table:
    return Table()


@pytest.fixture
async def broker(tokens: Table) -> AsyncIterator[Broker]:
    async with broker_with(tokens) as broker:
        yield broker


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(broker: Broker) -> Clock:
    """Unix time, as far as the end of identities is concerned."""
    clock = Clock()
    broker.worker.expiry.clock = clock
    return clock


async def hello(client: Client) -> dict[str, Any]:
    event = await client.event()
    assert event["type"] == "hello"
    return event


async def next_text(client: Client) -> str:
    """Of the next message, whoever comes and goes meanwhile."""
    while (event := await client.event())["type"] != "message":
        pass
    return str(event["text"])


def errors(event: dict[str, Any]) -> dict[str, str | None]:
    return {state["channel"]: state.get("error", {}).get("code") for state in event["channels"]}


# -- which credential


@pytest.mark.parametrize(
    ("offer", "target", "headers"),
    [
        (f"{JSON}, bearer.ann, members.1", "/ws", ()),
        (f"{JSON}, members.1", "/ws", ("Authorization: Bearer ann",)),
        (f"{JSON}, members.1", "/ws", ("Authorization: bearer   ann",)),
        (f"{JSON}, members.1", "/ws", ("Cookie: a=b; token=ann", f"Origin: {ORIGIN}")),
        (f"{JSON}, bearer.ann, members.1", "/ws", ("Authorization: Bearer bob",)),
        (f"{JSON}, bearer.ann, members.1", "/ws", ("Cookie: token=bob", f"Origin: {ORIGIN}")),
    ],
    ids=["offer", "header", "header in another case", "cookie", "offer before header", "offer before cookie"],
)
async def test_each_way_to_say_who_one_is_works(
    broker: Broker, offer: str, target: str, headers: tuple[str, ...]
) -> None:
    client = await broker.open(offer, target, *headers)
    event = await hello(client)
    assert (event["user"], errors(event)) == ("ann", {"members.1": None})


async def test_the_token_is_never_answered(broker: Broker) -> None:
    for offer in (f"bearer.ann, {JSON}, public", "bearer.ann, public"):
        client = await broker.connect()
        answer = await client.ask(request(offer=offer))
        assert answer.one("Sec-WebSocket-Protocol") in (JSON, "public")
        assert "ann" not in str(answer.headers)


async def test_a_token_in_the_url_is_refused_unless_switched_on(tokens: Table, broker: Broker) -> None:
    client = await broker.connect()
    answer = await client.ask(request("/ws?token=ann&channel=public"))
    assert (answer.status, tokens.asked) == (400, [])
    async with broker_with(tokens, auth_allow_tokens_in_urls_that_get_logged=True, alone=False) as lax:
        joined = await lax.open(None, "/ws?format=json&channel=members.1&token=ann")
        assert (await hello(joined))["user"] == "ann"
        twice = await lax.connect()
        assert (await twice.ask(request("/ws?channel=public&token=ann&token=bob"))).status == 400


async def test_a_foreign_page_does_not_borrow_a_visitor_s_cookie(tokens: Table, broker: Broker) -> None:
    """CSWSH (CVE-2019-13611 in python-engineio): who is let in without a name of his own is not believed a cookie."""
    client = await broker.open(f"{JSON}, public", "/ws", "Cookie: token=ann")
    assert (await hello(client))["user"] is None
    assert tokens.asked == []
    foreign = await broker.connect()
    answer = await foreign.ask(request("/ws", "Cookie: token=ann", offer="public", origin="https://evil.example"))
    assert (answer.status, tokens.asked) == (403, [])


@pytest.mark.parametrize("cookie", ["token=nonsense", "token=worn-out", "token=ann; token=bob", "token="])
async def test_a_cookie_that_does_not_hold_refuses_nothing_that_everybody_may_have(broker: Broker, cookie: str) -> None:
    client = await broker.open(f"{JSON}, public, members.1", "/ws", f"Cookie: {cookie}", origin=ORIGIN)
    event = await hello(client)
    assert (event["user"], errors(event)) == (None, {"public": None, "members.1": "not_authenticated"})


@pytest.mark.parametrize(
    ("token", "status", "word", "code"),
    [
        ("nonsense", 401, "not_authenticated", 4501),
        ("worn-out", 401, "token_expired", 4219),
        ("cannot", 503, "overloaded", None),
        ("x" * 2000, 401, "not_authenticated", 4501),
    ],
)
async def test_a_token_that_does_not_hold_refuses_and_says_why(
    broker: Broker, token: str, status: int, word: str, code: int | None
) -> None:
    client = await broker.connect()
    answer = await client.ask(request(offer=f"bearer.{token}, public"))
    assert answer.status == status
    assert word in answer.body.decode()
    assert token not in answer.body.decode()
    if code is not None:
        page = await broker.open(f"bearer.{token}, public", origin=ORIGIN)
        found, reason = await page.close_frame()
        assert found == code
        assert token not in reason
    else:
        assert answer.all("Retry-After")


async def test_a_longer_token_than_allowed_is_not_even_looked_at(tokens: Table) -> None:
    async with broker_with(tokens, auth_max_token_bytes=128) as broker:
        client = await broker.connect()
        assert (await client.ask(request("/ws", f"Authorization: Bearer {'x' * 129}", offer="public"))).status == 401
        assert tokens.asked == []


# -- what it may


async def test_json_connects_with_what_is_allowed_and_names_the_rest(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.ann, public, room.1, room.3, user.ann, user.bob, staff, other")
    assert errors(await hello(client)) == {
        "public": None,
        "room.1": None,
        "room.3": "not_permitted",
        "user.ann": None,
        "user.bob": "not_permitted",
        "staff": "not_permitted",
        "other": "not_permitted",
    }


@pytest.mark.parametrize(
    ("offer", "code", "word"),
    [
        ("members.1", 4501, "not_authenticated"),
        ("bearer.bob, room.1", 4503, "not_permitted"),
        ("bearer.bob, public, user.ann|recv", 4503, "not_permitted"),
        (f"{JSON}, members.1", 4501, "not_authenticated"),
        (f"{JSON}, bearer.bob, room.1, other", 4503, "not_permitted"),
        ("public|send", 4503, "not_permitted"),
        ("bearer.ann, room.2|both", 4503, "not_permitted"),
    ],
)
async def test_a_page_reads_why_it_was_refused(broker: Broker, offer: str, code: int, word: str) -> None:
    client = await broker.open(offer, origin=ORIGIN)
    found, reason = await client.close_frame()
    assert found == code
    assert reason.startswith(f"code={word};")


async def test_a_raw_page_hears_what_it_may_not_publish_in_and_is_closed_when_it_sends(broker: Broker) -> None:
    client = await broker.open("public")
    await client.send(frame(TEXT, b"hello"))
    assert (await client.close_frame())[0] == 4505
    assert broker.counter("n_published") == 0


async def test_a_publish_needs_its_own_permission(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.ann, room.1, room.2")
    await hello(client)
    await client.command(type="publish", channel="room.2", text="no", id=1)
    assert (await client.event())["code"] == "not_permitted"
    await client.command(type="publish", channel="room.1", text="yes", id=2)
    assert (await client.event())["from"]["user"] == "ann"
    assert (await client.event())["type"] == "ack"
    assert broker.counter("n_published") == 1


async def test_a_history_is_read_by_those_who_may_subscribe(broker: Broker) -> None:
    bob = await broker.open(f"{JSON}, bearer.bob, public")
    await hello(bob)
    await bob.command(type="history", channel="room.1", id=1)
    assert (await bob.event())["code"] == "not_permitted"
    ann = await broker.open(f"{JSON}, bearer.ann, public")
    await hello(ann)
    await ann.command(type="history", channel="room.1", id=1)
    assert (await ann.event())["type"] == "history"


async def test_subscribing_in_band_is_judged_like_the_offer(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.ann")
    await hello(client)
    await client.command(type="subscribe", channel=["room.1", "room.9", "user.bob", "staff"], id=1)
    assert errors(await client.event()) == {
        "room.1": None,
        "room.9": "not_permitted",
        "user.bob": "not_permitted",
        "staff": "not_permitted",
    }


async def test_resuming_is_judged_again(broker: Broker) -> None:
    """Mercure has to check replayed events again; Mosquitto CVE-2018-12546 did not."""
    ann = await broker.open(f"{JSON}, bearer.ann, room.1")
    position = (await hello(ann))["channels"][0]["position"]
    for who in ("bob", "ann-later"):
        client = await broker.open(f"{JSON}, bearer.{who}, public, room.1|since.{position}")
        assert errors(await hello(client))["room.1"] == "not_permitted"


async def test_what_a_token_gives_is_subscribed_to_without_asking(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.staff, public")
    event = await hello(client)
    assert [(state["channel"], state["index"]) for state in event["channels"]] == [
        ("public", 2),
        ("staff", -1),
        ("user.eve", -1),
    ]
    raw = await broker.open("bearer.staff, public")
    broker.worker.node.publish(broker.worker.node.channel("staff"), 1, b"to the staff")
    assert await raw.text() == "to the staff"
    assert (await client.event())["text"] == "to the staff"


async def test_a_channel_s_rate_holds_for_each_connection(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, open")
    await hello(client)
    for id in (1, 2):
        await client.command(type="publish", channel="open", text="x", id=id)
    assert [(await client.event())["type"] for _ in range(2)] == ["message", "ack"]
    assert (await client.event())["code"] == "rate_limited"
    raw = await broker.open("open|send")
    await raw.send(frame(TEXT, b"1") + frame(TEXT, b"2"))
    assert (await raw.close_frame())[0] == 4129
    assert broker.counter("n_published") == 2


# -- auth and refresh


async def test_a_connection_says_later_who_it_is(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, public")
    assert (await hello(client))["user"] is None
    await client.command(type="auth", token="ann", id=1)
    assert await client.event() == {"type": "ack", "user": "ann", "id": 1}
    await client.command(type="subscribe", channel="room.1", id=2)
    assert errors(await client.event()) == {"room.1": None}
    await client.command(type="publish", channel="room.1", text="me", id=3)
    assert (await client.event())["from"] == {
        "session": broker.reactor.session_id(next(iter(broker.reactor.ids(0, 4096)))),
        "user": "ann",
        "info": {"name": "Ann"},
    }


@pytest.mark.parametrize(
    ("first", "command", "token", "word"),
    [
        ("public", "auth", "nonsense", "not_authenticated"),
        ("public", "auth", "worn-out", "token_expired"),
        ("public", "auth", "cannot", "overloaded"),
        ("public", "refresh", "ann", "not_authenticated"),
        ("bearer.ann, public", "refresh", "bob", "other_identity"),
        ("bearer.ann, public", "auth", "bob", "other_identity"),
        ("bearer.ann, public", "refresh", "nonsense", "not_authenticated"),
    ],
)
async def test_a_token_that_is_refused_in_band_changes_nothing(
    broker: Broker, first: str, command: str, token: str, word: str
) -> None:
    client = await broker.open(f"{JSON}, {first}")
    user = (await hello(client))["user"]
    await client.command(type=command, token=token, id=1)
    event = await client.event()
    assert (event["type"], event["code"], event["id"]) == ("error", word, 1)
    (conn,) = broker.reactor.ids(0, 4096)
    session: Any = broker.reactor.session(conn)
    assert session.user == user
    await client.command(type="ping", id=2)
    assert (await client.event())["type"] == "ack"


async def test_a_server_that_takes_no_tokens_says_so() -> None:
    async with running() as broker:
        client = await broker.open_json("news")
        for command in ("auth", "refresh"):
            await client.command(type=command, token="ann", id=1)
            assert (await client.event())["code"] == "not_supported"


async def test_a_refresh_takes_away_what_the_new_token_does_not_permit_and_gives_what_it_does(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.ann, public, room.1, room.2")
    await hello(client)
    await client.command(type="refresh", token="ann-later", id=1)
    assert (await client.event())["user"] == "ann"
    lost = await client.event()
    assert (lost["type"], errors(lost), "id" in lost) == ("unsubscribed", {"room.1": "not_permitted"}, False)
    given = await client.event()
    assert (given["type"], errors(given)) == ("subscribed", {"staff": None})
    broker.worker.node.publish(broker.worker.node.channel("room.1"), 1, b"not for ann any more")
    broker.worker.node.publish(broker.worker.node.channel("staff"), 1, b"for ann")
    assert (await client.event())["text"] == "for ann"
    await client.command(type="refresh", token="ann-later", id=2)
    assert (await client.event())["type"] == "ack"
    await client.caught_up()


async def test_a_refresh_takes_away_what_the_new_token_does_not_give_any_more(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.ann-later, public")
    assert errors(await hello(client)) == {"public": None, "staff": None}
    await client.command(type="refresh", token="ann", id=1)
    assert (await client.event())["type"] == "ack"
    assert errors(await client.event()) == {"staff": "not_permitted"}
    broker.worker.node.publish(broker.worker.node.channel("staff"), 1, b"not for ann any more")
    await client.caught_up()


async def test_what_an_operator_gave_stays_over_a_refresh_and_is_gone_when_he_takes_it(broker: Broker) -> None:
    client = await broker.open(f"{JSON}, bearer.ann, public")
    await hello(client)
    assert await broker.worker.control.subscribe("ann", ["room.9", "staff"]) == 1
    assert errors(await client.event()) == {"room.9": None, "staff": None}
    await client.command(type="refresh", token="ann-short", id=1)
    assert (await client.event())["type"] == "ack"
    await client.command(type="history", channel="room.9", id=2)
    assert (await client.event())["type"] == "history"
    assert await broker.worker.control.unsubscribe("ann", ["room.9"]) == 1
    assert errors(await client.event()) == {"room.9": None}
    await client.command(type="history", channel="room.9", id=3)
    assert (await client.event())["code"] == "not_permitted"
    await client.command(type="unsubscribe", channel="staff", id=4)
    assert errors(await client.event()) == {"staff": None}
    await client.command(type="history", channel="staff", id=5)
    assert (await client.event())["code"] == "not_permitted"


async def test_who_may_only_publish_does_not_learn_who_is_there(broker: Broker) -> None:
    member = await broker.open(f"{JSON}, bearer.bob, letters")
    await hello(member)
    client = await broker.open(f"{JSON}, letters|send")
    assert errors(await hello(client)) == {"letters": None}
    await client.command(type="presence", channel="letters", id=1)
    assert (await client.event())["code"] == "not_authenticated"


async def test_nobody_takes_the_place_of_another_user_s_message_by_its_id(broker: Broker) -> None:
    ann = await broker.open(f"{JSON}, bearer.ann, members.1|send")
    bob = await broker.open(f"{JSON}, bearer.bob, members.1")
    await hello(ann)
    await hello(bob)
    channel = broker.worker.node.channel("members.1")
    await bob.command(type="publish", channel="members.1", text="bob's", message_id="7", echo=False)
    for _ in range(2):
        await ann.command(type="publish", channel="members.1", text="ann's", message_id="7", id=1)
        assert (await ann.event())["type"] == "ack"
    assert await next_text(bob) == "ann's"
    broker.worker.node.publish(channel, 1, b"the back end's", message_id="7")
    assert await next_text(bob) == "the back end's"


async def test_who_says_who_he_is_is_present_as_that(broker: Broker) -> None:
    watcher = await broker.open(f"{JSON}, bearer.bob, members.1")
    await hello(watcher)
    client = await broker.open(f"{JSON}, public")
    await hello(client)
    await client.command(type="auth", token="ann", id=1)
    await client.event()
    await client.command(type="subscribe", channel="members.1", id=2)
    await client.event()
    await watcher.command(type="presence", channel="members.1", id=1)
    while (event := await watcher.event())["type"] != "presence":
        pass
    assert {member["user"] for member in event["members"]} == {"ann", "bob"}


async def test_a_client_that_left_while_its_token_was_verified_is_simply_gone(tokens: Table, broker: Broker) -> None:
    tokens.slow["ann"] = asyncio.get_running_loop().create_future()
    client = await broker.open(f"{JSON}, public")
    await hello(client)
    await client.command(type="auth", token="ann", id=1)
    await wait_until(lambda: tokens.asked)
    client.close()
    await wait_until(lambda: broker.reactor.connections == 0)
    tokens.slow["ann"].set_result(None)
    await turns()


# -- the end of an identity


async def test_expiring_comes_a_minute_before_and_the_close_at_the_end(broker: Broker, clock: Clock) -> None:
    client = await broker.open(f"{JSON}, bearer.ann-short, public")
    await hello(client)
    raw = await broker.open("bearer.ann-short, public")
    clock.now = NOW + 29
    broker.worker.expiry.tick()
    await client.caught_up()
    clock.now = NOW + 32
    broker.worker.expiry.tick()
    assert await client.event() == {"type": "expiring", "in_ms": 58_000}
    broker.worker.expiry.tick()
    await client.caught_up()
    clock.now = NOW + 92
    broker.worker.expiry.tick()
    broker.advance(10)
    for ended in (client, raw):
        code, reason = await ended.close_frame()
        assert (code, reason.split(";")[0]) == (4219, "code=token_expired")


async def test_a_refresh_prolongs_it(broker: Broker, clock: Clock) -> None:
    client = await broker.open(f"{JSON}, bearer.ann-short, public")
    await hello(client)
    clock.now = NOW + 31
    broker.worker.expiry.tick()
    assert (await client.event())["type"] == "expiring"
    await client.command(type="refresh", token="ann", id=1)
    assert (await client.event())["type"] == "ack"
    for later in range(32, 3500, 50):
        clock.now = NOW + later
        broker.worker.expiry.tick()
    broker.advance(10)
    await client.caught_up()
    clock.now = NOW + 3541
    broker.worker.expiry.tick()
    assert (await client.event())["type"] == "expiring"


async def test_a_refresh_to_an_earlier_end_is_kept_to_too(broker: Broker, clock: Clock) -> None:
    client = await broker.open(f"{JSON}, bearer.ann, public")
    await hello(client)
    await client.command(type="refresh", token="ann-short", id=1)
    assert (await client.event())["type"] == "ack"
    clock.now = NOW + 32
    broker.worker.expiry.tick()
    assert (await client.event())["type"] == "expiring"


async def test_who_never_says_who_he_is_and_asks_for_nothing_is_sent_away(broker: Broker, clock: Clock) -> None:
    idle = await broker.open(JSON)
    await hello(idle)
    hears = await broker.open(f"{JSON}, public")
    await hello(hears)
    clock.now = NOW + 12
    broker.worker.expiry.tick()
    broker.advance(10)
    assert (await idle.close_frame())[0] == 4501
    await hears.caught_up()


async def test_connections_that_ended_long_before_their_token_leave_nothing_behind(
    broker: Broker, clock: Clock
) -> None:
    expiry: Expiry = broker.worker.expiry
    for _ in range(5):
        client = await broker.open(f"{JSON}, bearer.ann, public")
        client.close()
    await wait_until(lambda: broker.reactor.connections == 0)
    assert expiry.waiting
    clock.now = NOW + 301
    expiry.tick()
    assert expiry.waiting == 0


# -- the hook


async def test_the_site_is_asked_at_connect_and_again_for_each_subscribe() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, room.1", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        event = await hello(client)
        assert (event["user"], errors(event)) == ("ann", {"room.1": None})
        evidence = (b"sessionid=7",)
        assert site.asked == [(evidence, ORIGIN, ("room.1",))]
        await client.command(type="subscribe", channel=["room.2", "public"], id=1)
        assert errors(await client.event()) == {"room.2": None, "public": None}
        assert site.asked[1:] == [(evidence, ORIGIN, ("room.2",))]
        site.answers = lambda channels: Identity("ann")
        await client.command(type="subscribe", channel="room.3", id=2)
        assert errors(await client.event()) == {"room.3": "not_permitted"}


async def test_a_site_that_answers_for_somebody_else_gives_a_session_nothing() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, room.1", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        await hello(client)
        site.answers = lambda channels: Identity("bob", subscribe=channels)
        await client.command(type="subscribe", channel="room.2", id=1)
        assert errors(await client.event()) == {"room.2": "not_permitted"}


async def test_a_site_that_cannot_be_asked_grants_nothing_new_and_takes_nothing_away() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, room.1", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        await hello(client)

        def fails(channels: tuple[str, ...]) -> Identity:
            raise AuthError("overloaded")

        site.answers = fails
        await client.command(type="subscribe", channel=["room.2", "public"], id=1)
        assert errors(await client.event()) == {"room.2": "overloaded", "public": None}
        refused = await broker.connect()
        answer = await refused.ask(request("/ws", "Cookie: sessionid=7", offer="public", origin=ORIGIN))
        assert (answer.status, answer.one("Retry-After")) == (503, "5")


async def test_whoever_is_no_page_of_the_site_does_not_show_it_cookies() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, public", "/ws", "Cookie: sessionid=7")
        await hello(client)
        assert site.asked == [((), None, ("public",))]


async def test_a_token_s_end_is_kept_although_the_site_could_be_asked() -> None:
    site = Site()
    site.answers = lambda channels: Identity(None)
    async with broker_with(Table(), site, auth_cookie="") as broker:
        clock = Clock()
        broker.worker.expiry.clock = clock
        client = await broker.open(f"{JSON}, public", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        await hello(client)
        await client.command(type="auth", token="ann", id=1)
        assert (await client.event())["user"] == "ann"
        site.answers = lambda channels: Identity("ann", subscribe=channels)
        await client.command(type="subscribe", channel=["room.1", "room.9"], id=2)
        assert errors(await client.event()) == {"room.1": None, "room.9": "not_permitted"}
        (session,) = [broker.worker.reactor.session(conn) for conn in broker.worker.reactor.ids(0, 9)]
        assert isinstance(session, Session)
        assert session.identity.expires == NOW + 3600
