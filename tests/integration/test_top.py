"""Which channel is busiest, which session is slowest: what whoever asks is told, with one worker and with several."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.calling import READER, asked, call, problem, refused, serving_api
from tests.integration.harness import JSON, Broker, Client, wait_until
from tests.integration.several import Cluster
from tests.integration.test_api_several import serving

CHANNELS, SESSIONS = "/v1/top/channels", "/v1/top/sessions"
BLOCK = b"x" * 16_384
WINDOW_SECONDS = 5.0


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with serving_api() as broker:
        yield broker


@pytest.fixture
async def backend(broker: Broker) -> Client:
    return await broker.connect_api()


async def publish(backend: Client, channel: str, count: int, payload: bytes = b"x") -> None:
    for _ in range(count):
        await asked(backend, f"/v1/channels/{channel}/messages", payload)


async def channels(backend: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await asked(backend, CHANNELS + query))["channels"]
    return found


async def sessions(backend: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await asked(backend, SESSIONS + query))["sessions"]
    return found


async def stalled(broker: Broker, user: str) -> Client:
    """It takes what a small window takes, and then reads no more."""
    reader = await broker.connect(receive_buffer=4096)
    await reader.open("news|recv", "/ws", f"X-User: {user}")
    return reader


async def test_channels_are_ordered_by_what_is_asked_for(broker: Broker, backend: Client) -> None:
    for offer in ("busy", "wide", "wide", "wide", "quiet", "quiet", "quiet", "quiet"):
        await broker.open(offer)
    await publish(backend, "busy", 10)
    await publish(backend, "wide", 6)
    assert [one["channel"] for one in await channels(backend)] == ["busy", "wide"]
    assert [one["channel"] for one in await channels(backend, "?by=deliveries")] == ["wide", "busy"]
    found = await channels(backend, "?by=subscriptions&limit=2")
    assert [(one["channel"], one["subscriptions"]) for one in found] == [("quiet", 4), ("wide", 3)]
    (busiest,) = await channels(backend, "?limit=1")
    # Over the window before, and what has passed of this one.
    assert 10 / (2 * WINDOW_SECONDS) <= busiest["messages_per_second"] <= 10 / WINDOW_SECONDS
    assert busiest["deliveries_per_second"] == busiest["messages_per_second"]


async def test_what_was_said_ten_seconds_ago_is_no_longer_now(broker: Broker, backend: Client) -> None:
    await broker.open("old")
    await broker.open("new")
    await publish(backend, "old", 3)
    broker.advance(WINDOW_SECONDS)
    await publish(backend, "new", 2)
    assert [one["channel"] for one in await channels(backend)] == ["old", "new"]
    broker.advance(WINDOW_SECONDS)
    assert [one["channel"] for one in await channels(backend)] == ["new"]
    broker.advance(2 * WINDOW_SECONDS)
    assert await channels(backend) == []


async def test_a_session_that_does_not_read_is_the_slowest_and_one_that_reads_is_not_named(
    broker: Broker, backend: Client
) -> None:
    ann, bob = await stalled(broker, "ann"), await broker.open("news|recv", "/ws", "X-User: bob")
    for _ in range(20):
        await publish(backend, "news", 1, BLOCK)
        assert await bob.text() == BLOCK.decode()
    await wait_until(lambda: broker.counter("g_blocked") == 1)
    broker.advance(3.0)
    for by in ("waiting_ms", "queued_bytes", "queued_messages"):
        (slowest,) = await sessions(backend, f"?by={by}")
        assert (slowest["user"], slowest["format"], slowest["address"]) == ("ann", "raw", "127.0.0.1")
        assert (await asked(backend, f"/v1/sessions/{slowest['session']}"))["user"] == "ann"
    assert slowest["queued_messages"] >= 2
    assert slowest["queued_bytes"] >= slowest["queued_messages"] * len(BLOCK)
    assert 3000 <= slowest["waiting_ms"] < 60_000
    for _ in range(20):
        assert await ann.text() == BLOCK.decode()
    assert await sessions(backend) == []


async def test_the_slowest_come_first_and_only_as_many_as_are_asked_for(broker: Broker, backend: Client) -> None:
    first = await stalled(broker, "first")
    await publish(backend, "news", 10, BLOCK)
    broker.advance(1.0)
    later = await stalled(broker, "later")
    await publish(backend, "news", 20, BLOCK)
    await wait_until(lambda: broker.counter("g_blocked") == 2)
    assert [one["user"] for one in await sessions(backend)] == ["first", "later"]
    assert [one["user"] for one in await sessions(backend, "?by=queued_bytes&limit=1")] == ["first"]
    for client in (first, later):
        client.sock.close()


async def test_what_cannot_be_asked_for_is_told(broker: Broker, backend: Client) -> None:
    for target in (CHANNELS, SESSIONS):
        for query in ("?by=name", "?limit=0", "?limit=101", "?limit=x"):
            assert await refused(backend, target + query) == (422, "bad_field")
        assert problem(await backend.ask(call(target, key=READER, host="localhost"))) == (403, "not_permitted")


async def test_all_workers_are_added_up_by_whichever_is_asked() -> None:
    async with serving(3) as cluster:
        backend = await cluster.workers[2].connect_api()
        for worker in cluster.workers[:2]:
            await joined(worker, "news", "room")
        await joined(cluster.workers[0], "room")
        await publish(backend, "news", 12)
        await publish(backend, "room", 9)
        await wait_until(lambda: delivered(cluster) == 12 * 2 + 9 * 3)
        news, room = await channels(backend)
        assert (news["channel"], news["subscriptions"]) == ("news", 2)
        assert news["deliveries_per_second"] == pytest.approx(2 * news["messages_per_second"], rel=0.2)
        assert (room["channel"], room["subscriptions"]) == ("room", 3)
        # Neither is on top of both workers.
        (most,) = await channels(backend, "?by=deliveries&limit=1")
        assert most["channel"] == "room"


async def joined(worker: Broker, *names: str) -> Client:
    client = await worker.open(", ".join([JSON, *names]))
    assert (await client.event())["type"] == "hello"
    return client


def delivered(cluster: Cluster) -> int:
    return sum(worker.counter("n_offered") for worker in cluster.workers)


async def test_a_session_at_another_worker_is_found_and_named() -> None:
    async with serving(2) as cluster:
        backend = await cluster.workers[1].connect_api()
        await stalled(cluster.workers[0], "ann")
        await publish(backend, "news", 20, BLOCK)
        await wait_until(lambda: cluster.workers[0].counter("g_blocked") == 1)
        (slowest,) = await sessions(backend)
        assert slowest["user"] == "ann"
