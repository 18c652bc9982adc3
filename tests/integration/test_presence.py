"""Presence over real sockets: who sees whom come and go, and what a crowd costs. The engine's time is the test's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.auth.identity import Identity
from broker.config.schema import Limits
from broker.engine.memory import MemoryEngine
from broker.gateway.authority import Grant
from broker.native._request import Request
from broker.protocol.offer import Offer
from tests.client_frames import TEXT, close, frame
from tests.fake_clock import FakeClock
from tests.integration.harness import JSON, Broker, Client, request, running, turns, wait_until

LEAVE, BATCH = 10.0, 0.5
LIMITS = Limits(presence_leave_seconds=LEAVE, presence_batch_seconds=BATCH)
CHANNELS = {"room": {"presence": True}, "lossy": {"presence": True, "queue": "drop_oldest"}}


class ByName:
    """A page says who it is in the query: `?user=ann`. Without, it is nobody in particular."""

    async def admit(self, request: Request, offer: Offer) -> Grant:
        name = (request.query or b"").decode().removeprefix("user=")
        return Grant(Identity(name, f'{{"name":"{name.title()}"}}'.encode())) if name else Grant()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def broker(clock: FakeClock) -> AsyncIterator[Broker]:
    async with running(
        authority=ByName(), engine=lambda sink: MemoryEngine(sink, LIMITS, clock), channels=CHANNELS
    ) as broker:
        yield broker


async def enter(broker: Broker, user: str, offer: str = f"{JSON}, room") -> Client:
    client = await broker.open(offer, f"/ws?user={user}" if user else "/ws")
    if offer.startswith(JSON):
        assert (await client.event())["type"] == "hello"
    return client


async def gone(broker: Broker, *clients: Client) -> None:
    left = broker.reactor.connections - len(clients)
    broker.leave(clients)
    await wait_until(lambda: broker.reactor.connections == left, "their connections have ended")


def shown(*users: str) -> list[dict[str, Any]]:
    return [{"user": user, "info": {"name": user.title()}} for user in users]


async def test_a_page_sees_others_join_and_leave(broker: Broker, clock: FakeClock) -> None:
    ann = await enter(broker, "ann")
    clock.advance(BATCH)
    assert await ann.event() == {"type": "join", "channel": "room", "members": shown("ann"), "count": 1}
    bob, cyd = await enter(broker, "bob"), await enter(broker, "cyd")
    clock.advance(BATCH)
    join = {"type": "join", "channel": "room", "members": shown("bob", "cyd"), "count": 3}
    assert [await client.event() for client in (ann, bob, cyd)] == [join] * 3
    await bob.command(type="unsubscribe", channel="room")
    assert (await bob.event())["type"] == "unsubscribed"
    await gone(broker, cyd)
    clock.advance(LEAVE)
    clock.advance(BATCH)
    assert await ann.event() == {"type": "leave", "channel": "room", "members": shown("bob", "cyd"), "count": 1}
    await bob.caught_up()
    assert bob.silent()


async def test_a_page_that_is_reloaded_has_not_left(broker: Broker, clock: FakeClock) -> None:
    ann, bob = await enter(broker, "ann"), await enter(broker, "bob")
    clock.advance(BATCH)
    assert (await ann.event())["count"] == 2
    await gone(broker, bob)
    clock.advance(LEAVE - 0.5)
    await enter(broker, "bob")
    clock.advance(5 * LEAVE)
    await ann.caught_up()
    await ann.command(type="presence", channel="room")
    answer = await ann.event()
    assert (answer["type"], answer["members"]) == ("presence", shown("ann", "bob"))


async def test_a_subscriber_may_ask_who_is_there_and_others_may_not(broker: Broker) -> None:
    ann, nobody, other = (
        await enter(broker, "ann"),
        await enter(broker, ""),
        await enter(broker, "eve", f"{JSON}, news"),
    )
    await ann.command(type="presence", channel="room", id=7)
    answer = await ann.event()
    assert answer.pop("members")[:1] == shown("ann")
    assert answer == {"type": "presence", "channel": "room", "count": 2, "id": 7}
    await nobody.command(type="presence", channel="room")
    anonymous = (await nobody.event())["members"][1]
    assert anonymous["user"] is None
    assert len(anonymous["session"]) == 16
    for channel, word in (("room", "not_subscribed"), ("news", "not_supported")):
        await other.command(type="presence", channel=channel, id=channel)
        error = await other.event()
        assert (error["type"], error["code"], error["id"]) == ("error", word, channel)


async def test_a_raw_page_is_seen_and_hears_only_messages(broker: Broker, clock: FakeClock) -> None:
    ann, raw = await enter(broker, "ann"), await enter(broker, "", "room")
    clock.advance(BATCH)
    join = await ann.event()
    assert (join["count"], [member["user"] for member in join["members"]]) == (2, ["ann", None])
    await raw.send(frame(TEXT, b"hello"))
    assert await raw.text() == "hello"
    message = await ann.event()
    assert (message["text"], message["from"]) == ("hello", {"session": join["members"][1]["session"]})
    await raw.send(close(1000))
    assert (await raw.close_frame())[0] == 1000
    await wait_until(lambda: broker.reactor.connections == 1, "the raw page has gone")
    clock.advance(LEAVE)
    clock.advance(BATCH)
    assert (await ann.event())["type"] == "leave"


async def test_a_channel_without_presence_tells_nothing(broker: Broker, clock: FakeClock) -> None:
    ann, bob = await enter(broker, "ann", f"{JSON}, news"), await enter(broker, "bob", f"{JSON}, news")
    await gone(broker, bob)
    clock.advance(5 * LEAVE)
    await ann.caught_up()
    assert clock.alarms == []
    assert broker.counter("n_events") == 0


async def test_two_hundred_pages_that_come_at_once_cost_one_event_each_and_none_when_they_reconnect(
    broker: Broker, clock: FakeClock
) -> None:
    crowd = 200
    watcher = await enter(broker, "watcher")
    clock.advance(BATCH)
    assert (await watcher.event())["count"] == 1

    async def everybody() -> list[Client]:
        return await asyncio.gather(*(enter(broker, f"user{number}") for number in range(crowd)))

    clients = await everybody()
    clock.advance(BATCH)
    join = await watcher.event()
    assert (len(join["members"]), join["more"], join["count"]) == (100, crowd - 100, crowd + 1)
    assert broker.counter("n_events") == 1 + (crowd + 1)
    await gone(broker, *clients)
    clients = await everybody()
    clock.advance(5 * LEAVE)
    await turns()
    assert broker.counter("n_events") == 1 + (crowd + 1)
    await gone(broker, *clients)
    clock.advance(LEAVE)
    clock.advance(BATCH)
    leave = await watcher.event()
    assert (leave["type"], len(leave["members"]), leave["more"], leave["count"]) == ("leave", 100, crowd - 100, 1)
    assert broker.counter("n_events") == 1 + (crowd + 1) + 1


async def test_a_reader_that_stalls_is_not_cut_off_by_those_who_come_and_go(clock: FakeClock) -> None:
    async with running(
        authority=ByName(),
        engine=lambda sink: MemoryEngine(sink, LIMITS, clock),
        channels=CHANNELS,
        limits_send_queue_bytes=65_536,
    ) as broker:
        stalled = await broker.connect(receive_buffer=4096)
        await stalled.open(f"{JSON}, lossy, room", "/ws?user=ann")
        assert (await stalled.event())["type"] == "hello"
        sender = await enter(broker, "bob", f"{JSON}, other")
        while not broker.counter("n_dropped_oldest"):
            await sender.command(type="publish", channel="lossy", text="x" * 30_000)
            await sender.caught_up()
        # Larger than what is left of the queue, whatever the messages left over.
        for number in range(200):
            await enter(broker, f"user{number}-{'x' * 300}")
        clock.advance(BATCH)
        await wait_until(lambda: broker.counter("n_events_dropped"), "the stalled reader has no room for the join")
        gaps: list[tuple[str, bool]] = []
        while len(gaps) < 2:
            event = await stalled.event()
            if event["type"] == "gap":
                gaps.append((event["channel"], event["missed"] > 0))
        assert sorted(gaps) == [("lossy", True), ("room", False)]
        assert broker.closed_by_cause() == {}


async def test_a_worker_that_ends_has_told_its_engine_of_everybody(clock: FakeClock) -> None:
    engines: list[MemoryEngine] = []

    def engine(sink: Any) -> MemoryEngine:
        engines.append(MemoryEngine(sink, LIMITS, clock))
        return engines[0]

    async with running(authority=ByName(), engine=engine, channels=CHANNELS) as broker:
        await enter(broker, "ann")
        await enter(broker, "bob", "room")
        assert engines[0].presence(b"room").count == 2
    clock.advance(LEAVE)
    clock.advance(BATCH)
    assert engines[0].presence(b"room").count == 0
    assert clock.alarms == []


async def test_the_operators_limits_hold_on_the_loops_own_clock() -> None:
    async with running(
        authority=ByName(),
        channels=CHANNELS,
        limits_presence_batch_seconds=0.01,
        limits_presence_leave_seconds=0.02,
        limits_presence_event_members=0,
        limits_presence_reply_members=1,
        limits_presence_info_bytes=16,
    ) as broker:
        ann, bob = await enter(broker, "ann"), await enter(broker, "bob")
        joined = 0
        while joined < 2:
            join = await ann.event()
            assert (join["type"], join["members"]) == ("join", [])
            joined += join["more"]
        await ann.command(type="presence", channel="room")
        answer = await ann.event()
        assert (answer["members"], answer["count"], answer["truncated"]) == (shown("ann"), 2, True)
        await gone(broker, bob)
        assert await ann.event() == {"type": "leave", "channel": "room", "members": [], "count": 1, "more": 1}
        refused = await broker.connect()
        status = (await refused.ask(request("/ws?user=annabelle", offer=f"{JSON}, room"))).status
        assert status == 401
