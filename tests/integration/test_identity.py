"""Who a connection is and what it may, from its first byte: real sockets, a table in place of tokens."""

from collections.abc import AsyncIterator

import pytest

from tests.client_frames import TEXT, frame
from tests.integration.harness import JSON, Broker, request
from tests.integration.identified import ORIGIN, Table, broker_with, errors, hello


@pytest.fixture
async def tokens() -> Table:
    return Table()


@pytest.fixture
async def broker(tokens: Table) -> AsyncIterator[Broker]:
    async with broker_with(tokens) as broker:
        yield broker


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
