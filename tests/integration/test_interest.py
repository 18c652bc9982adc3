"""A connection is answered when everything that is published in its channels comes to its worker, not sooner."""

import json
from collections.abc import AsyncIterator

import pytest

from broker.engine.base import EngineError
from tests.integration.harness import JSON, Broker, request, running, turns, wait_until
from tests.integration.waiting import JoiningEngine


@pytest.fixture
def engine() -> JoiningEngine:
    return JoiningEngine()


@pytest.fixture
async def broker(engine: JoiningEngine) -> AsyncIterator[Broker]:
    async with running(engine=engine.attach) as broker:
        yield broker


async def asked(engine: JoiningEngine, *channels: bytes) -> None:
    await wait_until(lambda: len(engine.joining) >= len(channels), f"the engine is asked for {channels}")
    await turns()
    assert [channel for channel, _ in engine.joining] == list(channels)


@pytest.mark.parametrize("format", ["raw", "json"])
async def test_the_handshake_is_answered_when_all_its_channels_are_joined(
    broker: Broker, engine: JoiningEngine, format: str
) -> None:
    client = await broker.connect()
    channels = "a, b|recv, c|send"
    await client.send(request(offer=f"{JSON}, {channels}" if format == "json" else channels))
    await asked(engine, b"a", b"b")  # who only publishes hears nothing
    engine.joined()
    await turns()
    assert client.silent()
    engine.joined()
    assert (await client.answer()).status == 101
    # What is joined already is not asked for again.
    await broker.open("b|recv")


async def test_subscribed_is_said_when_all_its_channels_are_joined_and_names_those_that_could_not_be(
    broker: Broker, engine: JoiningEngine
) -> None:
    client = await broker.open_json()
    await client.command(type="subscribe", channel=["a", "b", "a", "!", "c|send"], id=1)
    await client.command(type="ping", id=2)
    await asked(engine, b"a", b"b")
    engine.joined()
    await turns()
    assert client.input == b""
    engine.cannot_join(EngineError("engine_unavailable"))
    event = await client.event()
    assert (event["type"], event["id"]) == ("subscribed", 1)
    assert [(one["channel"], one.get("error", {}).get("code")) for one in event["channels"]] == [
        ("a", None),
        ("b", "engine_unavailable"),
        (None, "duplicate_channel"),
        (None, "bad_channel"),
        ("c", None),
    ]
    assert await client.event() == {"type": "ack", "id": 2}
    assert broker.counter("g_subscriptions") == 2


async def test_a_channel_beyond_what_a_connection_may_have_is_not_even_asked_for(engine: JoiningEngine) -> None:
    async with running(engine=engine.attach, limits_max_channels_per_connection=2) as broker:
        client = await broker.open_json()
        await client.command(type="subscribe", channel=["a", "b", "c"], id=1)
        await asked(engine, b"a", b"b")
        engine.joined()
        engine.joined()
        event = await client.event()
        assert [one.get("error", {}).get("code") for one in event["channels"]] == [None, None, "too_many_channels"]


@pytest.mark.parametrize("origin", [None, "http://localhost"])
@pytest.mark.parametrize("format", ["raw", "json"])
async def test_a_page_whose_channels_cannot_be_joined_is_told_to_come_back_later(
    broker: Broker, engine: JoiningEngine, format: str, origin: str | None
) -> None:
    client = await broker.connect()
    await client.send(request(offer=f"{JSON}, news" if format == "json" else "news", origin=origin))
    await asked(engine, b"news")
    engine.cannot_join(EngineError("engine_unavailable"))
    answer = await client.answer()
    assert answer.status == 503
    assert int(answer.one("Retry-After")) > 0
    assert json.loads(answer.body)["code"] == "engine_unavailable"
    await client.closed()
    client.close()
    await broker.ended_for("overloaded")


async def test_a_client_that_leaves_while_its_channel_is_joined_leaves_nothing_behind(
    broker: Broker, engine: JoiningEngine
) -> None:
    gone, stays = await broker.connect(), await broker.connect()
    for client in (gone, stays):
        await client.send(request(offer="news"))
    await asked(engine, b"news")
    gone.reset()
    await broker.ended_for("peer_gone")
    engine.joined()
    assert (await stays.answer()).status == 101
    assert broker.counter("g_sessions") == 1


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_channel_that_everybody_has_left_is_left_at_the_engine_and_joined_again_by_the_next(
    engine: JoiningEngine,
) -> None:
    async with running(
        engine=engine.attach, limits_interest_linger_seconds=1.0, limits_handshake_seconds=1.0
    ) as broker:
        stays, goes = await broker.connect(), await broker.connect()
        for client, offer in ((stays, "a"), (goes, "a, b")):
            await client.send(request(offer=offer))
        await asked(engine, b"a", b"b")
        engine.joined()
        engine.joined()
        assert [(await client.answer()).status for client in (stays, goes)] == [101, 101]
        goes.close()
        await wait_until(lambda: engine.left)
        assert engine.left == [b"b"]
        again = await broker.connect()
        await again.send(request(offer="a, b"))
        await asked(engine, b"b")
        engine.joined()
        assert (await again.answer()).status == 101
