"""History of an engine that is elsewhere: the worker's own rings answer replays, and holes are filled or told."""

import time
from collections.abc import AsyncIterator

import pytest

from broker.engine.base import EngineError, HistoryRule, Joined, Publication
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
    assert (publication.history, publication.message_id) == (RULE, "\0\0m"), "as nobody's own"
    engine.sequence("epoch.1")
    assert (await client.event())["position"] == "epoch.1"
    raw = await broker.open("news|send")
    await raw.send(frame(TEXT, b"y"))
    await wait_until(lambda: engine.asked)
    assert engine.asked[0][0].history == RULE
    engine.sequence()


# A client that comes from another worker: what it has seen there may not have been delivered here yet.


async def here(broker: Broker, engine: JoiningEngine) -> None:
    """Somebody is subscribed at this worker, which has heard of offsets up to 10."""
    client = await broker.connect()
    await client.send(request(offer="news"))
    await joining(engine)
    engine.joined(window(10, 5))
    await client.answer()


@pytest.mark.parametrize("door", ["handshake", "command"])
async def test_who_has_seen_more_elsewhere_is_not_told_that_it_missed_something(
    broker: Broker, engine: JoiningEngine, door: str
) -> None:
    await here(broker, engine)
    if door == "handshake":
        client = await broker.connect()
        await client.send(request(offer=f"{JSON}, news|since.epoch.c"))
        await joining(engine)
        engine.joined(window(13, 3))
        await client.answer()
    else:
        client = await broker.open_json()
        await client.command(type="subscribe", channel="news|since.epoch.c")
        await joining(engine)
        engine.joined(window(13, 3))
    (channel,) = (await client.event())["channels"]
    assert (channel["position"], channel["recovered"]) == ("epoch.c", True)
    assert (await client.event())["position"] == "epoch.d"


async def test_a_raw_client_that_has_seen_more_elsewhere_gets_nothing_twice(
    broker: Broker, engine: JoiningEngine
) -> None:
    await here(broker, engine)
    client = await broker.connect()
    await client.send(request(offer="news|since.epoch.c"))
    await joining(engine)
    for offset in (11, 12, 13):
        engine.sink.deliver(publication(offset))
    engine.joined(window(13, 3))
    await client.answer()
    assert await client.text() == "13"


async def test_a_question_that_was_asked_before_the_position_was_given_out_is_not_enough(
    broker: Broker, engine: JoiningEngine
) -> None:
    first, client = await broker.connect(), await broker.connect()
    await first.send(request(offer="news"))
    await joining(engine)
    await client.send(request(offer=f"{JSON}, news|since.epoch.c"))
    await turns()
    engine.joined(window(10, 5))
    await first.answer()
    await joining(engine)
    engine.joined(window(12, 2))
    await client.answer()
    (channel,) = (await client.event())["channels"]
    assert (channel["position"], channel["recovered"]) == ("epoch.c", True)


@pytest.mark.parametrize("position", ["epoch.zzz", "other.1"])
async def test_a_position_that_the_engine_does_not_know_either_is_refused_after_one_question(
    broker: Broker, engine: JoiningEngine, position: str
) -> None:
    await here(broker, engine)
    client = await broker.connect()
    await client.send(request(offer=f"{JSON}, news|since.{position}"))
    await joining(engine)
    engine.joined(window(10, 0))
    await client.answer()
    (channel,) = (await client.event())["channels"]
    assert (channel["position"], channel["recovered"]) == ("epoch.a", False)


async def test_a_history_that_began_anew_elsewhere_first_is_resumed_here_too(
    broker: Broker, engine: JoiningEngine
) -> None:
    await here(broker, engine)
    client = await broker.connect()
    await client.send(request(offer=f"{JSON}, news|since.newer.2"))
    await joining(engine)
    entries = [
        Publication(b"news", 1, b"%d" % n, history=RULE, offset=n, epoch="newer", time_ms=NOW_MS) for n in (1, 2, 3)
    ]
    engine.joined(Joined("newer", 3, tuple(entries)))
    await client.answer()
    (channel,) = (await client.event())["channels"]
    assert (channel["position"], channel["recovered"]) == ("newer.2", True)
    assert (await client.event())["text"] == "3"


async def test_reading_on_from_what_was_seen_elsewhere_is_complete(broker: Broker, engine: JoiningEngine) -> None:
    await here(broker, engine)
    client = await broker.open_json()
    await client.command(type="history", channel="news", since="epoch.c", id=1)
    await joining(engine)
    engine.joined(window(13, 3))
    answer = await client.event()
    assert (answer["recovered"], answer["position"]) == (True, "epoch.d")


async def test_without_a_link_nobody_claims_that_what_was_seen_elsewhere_is_gone(
    broker: Broker, engine: JoiningEngine
) -> None:
    await here(broker, engine)
    client = await broker.connect()
    await client.send(request(offer=f"{JSON}, news|since.epoch.c"))
    await joining(engine)
    engine.cannot_join(EngineError("engine_unavailable"))
    assert (await client.answer()).status == 503
