"""The commands auth and refresh, and the end of an identity on a connection that is open."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.gateway.expiry import Expiry
from tests.integration.harness import JSON, Broker, running, turns, wait_until
from tests.integration.identified import (
    NOW,
    Clock,
    Table,
    broker_with,
    errors,
    hello,
    next_text,
)


@pytest.fixture
async def tokens() -> Table:
    return Table()


@pytest.fixture
async def broker(tokens: Table) -> AsyncIterator[Broker]:
    async with broker_with(tokens) as broker:
        yield broker


@pytest.fixture
def clock(broker: Broker) -> Clock:
    """Unix time, as far as the end of identities is concerned."""
    clock = Clock()
    broker.worker.expiry.clock = clock
    return clock


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
