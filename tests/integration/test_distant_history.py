"""History of an engine that is elsewhere: the worker's own rings answer replays, and holes are filled or told."""

import time
from collections.abc import AsyncIterator

import pytest

from broker.engine.base import HistoryRule, Joined, Publication
from tests.client_frames import TEXT, frame
from tests.integration.harness import JSON, Broker, request, running, turns, wait_until
from tests.integration.waiting import JoiningEngine

NOW_MS = int(time.time() * 1000)
RULE = HistoryRule(100, 300.0, 1_048_576)


@pytest.fixture
def engine() -> JoiningEngine:
    return JoiningEngine()


@pytest.fixture
async def broker(engine: JoiningEngine) -> AsyncIterator[Broker]:
    async with running(engine=engine.attach, channels={">": {"history_count": 100}}) as broker:
        yield broker


def publication(offset: int) -> Publication:
    return Publication(b"news", 1, b"%d" % offset, history=RULE, offset=offset, epoch="epoch", time_ms=NOW_MS)


def window(head: int, kept: int) -> Joined:
    return Joined("epoch", head, tuple(map(publication, range(head - kept + 1, head + 1))))


async def joining(engine: JoiningEngine) -> None:
    await wait_until(lambda: engine.joining, "the engine is asked")
    await turns()
    assert len(engine.joining) == 1


@pytest.mark.parametrize("format", ["raw", "json"])
async def test_a_resume_waits_for_the_window_and_what_is_published_meanwhile_follows_it(
    broker: Broker, engine: JoiningEngine, format: str
) -> None:
    client = await broker.connect()
    await client.send(request(offer=f"{JSON}, news|since.epoch.8" if format == "json" else "news|since.epoch.8"))
    await joining(engine)
    engine.sink.deliver(publication(11))
    engine.joined(window(10, 5))
    engine.sink.deliver(publication(12))
    assert (await client.answer()).status == 101
    if format == "json":
        (channel,) = (await client.event())["channels"]
        assert channel == {"channel": "news", "index": 1, "position": "epoch.8", "recovered": True}
        events = [await client.event() for _ in range(4)]
        assert [event["text"] for event in events] == ["9", "10", "11", "12"]
        assert [event["position"] for event in events] == ["epoch.9", "epoch.a", "epoch.b", "epoch.c"]
    else:
        assert [await client.text() for _ in range(4)] == ["9", "10", "11", "12"]
    engine.sink.deliver(publication(13))
    assert "13" in await client.text()


async def test_what_a_link_lost_is_read_from_the_engine_and_nobody_notices(
    broker: Broker, engine: JoiningEngine
) -> None:
    client = await broker.connect()
    await client.send(request(offer="news"))
    await joining(engine)
    engine.joined(window(10, 5))
    await client.answer()
    engine.sink.deliver(publication(11))
    engine.sink.missed(b"news", 2)
    await joining(engine)
    engine.sink.deliver(publication(14))
    engine.joined(window(14, 8))
    assert [await client.text() for _ in range(4)] == ["11", "12", "13", "14"]
    # A hole that nobody announced is found as well.
    engine.sink.deliver(publication(17))
    await joining(engine)
    engine.joined(window(17, 8))
    assert [await client.text() for _ in range(3)] == ["15", "16", "17"]


async def test_a_new_link_tells_what_was_published_while_there_was_none_or_that_it_is_gone(
    broker: Broker, engine: JoiningEngine
) -> None:
    json, raw = await broker.connect(), await broker.connect()
    ended: list[int] = []
    broker.worker.node.on_hole = ended.extend
    for client, offer in ((json, f"{JSON}, news"), (raw, "news")):
        await client.send(request(offer=offer))
    await joining(engine)
    engine.joined(window(10, 5))
    await json.answer()
    await raw.answer()
    assert (await json.event())["type"] == "hello"
    again = broker.worker.node.interests.rejoin()
    task = client.loop.create_task(again)
    await joining(engine)
    engine.joined(window(12, 8))
    await task
    assert [(await json.event())["text"] for _ in range(2)] == ["11", "12"]
    assert [await raw.text() for _ in range(2)] == ["11", "12"]
    assert ended == []
    task = client.loop.create_task(broker.worker.node.interests.rejoin())
    await joining(engine)
    engine.joined(window(30, 2))
    await task
    assert await json.event() == {"type": "gap", "channel": "news", "missed": 16}
    assert [(await json.event())["text"] for _ in range(2)] == ["29", "30"]
    assert len(ended) == 1


async def test_a_publish_carries_its_rule_and_its_id_to_the_engine(broker: Broker, engine: JoiningEngine) -> None:
    client = await broker.open_json()
    await client.command(type="publish", channel="news", text="x", message_id="m", id=1)
    await wait_until(lambda: engine.asked)
    publication, _ = engine.asked[0]
    assert (publication.history, publication.message_id) == (RULE, "m")
    engine.sequence("epoch.1")
    assert (await client.event())["position"] == "epoch.1"
    raw = await broker.open("news|send")
    await raw.send(frame(TEXT, b"y"))
    await wait_until(lambda: engine.asked)
    assert engine.asked[0][0].history == RULE
    engine.sequence()
