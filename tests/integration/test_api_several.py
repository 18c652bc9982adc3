"""The HTTP API of several workers: what one of them is asked reaches all, and what the engine's trouble looks like."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.config.schema import Limits
from tests.integration.calling import CHANNELS, KEYS, ByHeader, asked, call, problem, refused
from tests.integration.harness import JSON, Answer, Broker, Client, wait_until
from tests.integration.several import Cluster, several

PUBLISH = "/v1/publish"
NEWS = "/v1/channels/news/messages"


@asynccontextmanager
async def serving(count: int = 2, **settings: Any) -> AsyncIterator[Cluster]:
    more: dict[str, Any] = {"api_keys": KEYS, "channels": CHANNELS, "authority": ByHeader(), **settings}
    async with several(count, api=True, **more) as cluster:
        yield cluster


def stand_still(cluster: Cluster) -> None:
    """The engine, as a stopped process does."""
    asyncio.get_running_loop().remove_reader(cluster.engine.exchange.fileno())


def go_on(cluster: Cluster) -> None:
    asyncio.get_running_loop().add_reader(cluster.engine.exchange.fileno(), cluster.engine.exchange.turn)


async def of_ann(broker: Broker, *channels: str) -> Client:
    client = await broker.open(", ".join([JSON, *channels]), "/ws", "X-User: ann")
    assert (await client.event())["type"] == "hello"
    return client


def retry(answer: Answer) -> tuple[int, str]:
    assert answer.one("retry-after") == "1"
    return problem(answer)


# -- who is where


async def test_a_user_is_reached_at_every_worker_by_a_request_to_one() -> None:
    async with serving(3) as cluster:
        backend = await cluster.workers[0].connect_api()
        clients = [await of_ann(worker) for worker in cluster.workers]
        other = await cluster.workers[1].open_json()
        assert await asked(backend, "/v1/users/ann/subscribe", {"channels": ["news"]}) == {"sessions": 3}
        for client in clients:
            event = await client.event()
            assert (event["type"], event["channels"][0]["channel"]) == ("subscribed", "news")
        await asked(backend, NEWS, b"hello")
        assert [(await client.event())["text"] for client in clients] == ["hello"] * 3
        assert await asked(backend, "/v1/users/ann/unsubscribe", {"channels": ["news"]}) == {"sessions": 3}
        for client in clients:
            assert (await client.event())["type"] == "unsubscribed"
        assert len((await asked(backend, "/v1/sessions?user=ann"))["sessions"]) == 3
        assert await asked(backend, "/v1/users/ann/disconnect", b"") == {"disconnected": 3}
        for client in clients:
            assert (await client.close_frame())[0] == 4510
            client.close()
        assert other.silent()


# -- order


async def test_a_batch_keeps_its_order_over_a_link_whatever_its_messages_need_on_the_way() -> None:
    """With ids and without, kept and not, and more than the link takes at once."""
    async with serving(2, engine_limits=Limits(link_window_bytes=20_000)) as cluster:
        one, two = cluster.workers
        hears = {channel: await two.open(channel) for channel in ("news", "kept.a")}
        batch: list[dict[str, object]] = []
        for number in range(120):
            message: dict[str, object] = {"channel": ("news", "kept.a")[number % 5 == 0]}
            message["text"] = f"{number:04d}" + "." * 1000
            if number % 3 == 0:
                message["message_id"] = f"id-{number}"
            batch.append(message)
        backend = await one.connect_api()
        results = (await asked(backend, PUBLISH, batch))["results"]
        assert [one.get("error") for one in results] == [None] * 120
        assert [bool(one["position"]) for one in results] == [number % 5 == 0 for number in range(120)]
        for channel, client in hears.items():
            sent = [str(message["text"])[:4] for message in batch if message["channel"] == channel]
            assert [(await client.text())[:4] for _ in sent] == sent


# -- too much at once


async def test_publishes_beyond_those_that_may_wait_are_told_to_come_back_and_the_others_are_served() -> None:
    async with serving(1, api_max_waiting_publishes=3, engine_limits=Limits(link_window_bytes=20_000)) as cluster:
        (one,) = cluster.workers
        subscriber = await one.open("news")
        backends = [await one.connect_api() for _ in range(3)]
        late = await one.connect_api()
        stand_still(cluster)
        for number, backend in enumerate(backends):  # the last ones have no credit
            await backend.send(call(NEWS, f"{number}{'.' * 12_000}".encode(), host="localhost"))
        publishing = one.worker.api
        assert publishing is not None
        await wait_until(lambda: publishing._publishing._waiting == 3, "three wait")
        assert not one.reactor.link_has_credit
        for body in (b"x", {"channel": "news", "text": "x"}, [{"channel": "news", "text": "x"}] * 3):
            target = PUBLISH if not isinstance(body, bytes) else NEWS
            assert retry(await late.ask(call(target, body, host="localhost"))) == (503, "overloaded")
        assert one.counter("n_api_crowded") == one.counter("n_api_failed") == 3
        go_on(cluster)
        assert [(await backend.answer()).status for backend in backends] == [200] * 3
        assert [(await subscriber.text())[0] for _ in backends] == ["0", "1", "2"], "first come, first served"
        await asked(late, PUBLISH, [{"channel": "news", "text": "y"}] * 10)
        assert await subscriber.text() == "y", "nothing of what was refused was published"
        assert publishing._publishing._waiting == 0


# -- the engine's trouble


async def test_without_an_engine_nothing_is_published_and_the_back_end_is_told_when_to_come_back() -> None:
    async with serving() as cluster:
        backend = await cluster.workers[0].connect_api()
        cluster.stop_engine()
        await wait_until(lambda: not cluster.links[0].up)
        assert retry(await backend.ask(call(NEWS, b"x", host="localhost"))) == (503, "engine_unavailable")
        assert await refused(backend, "/v1/channels") == (503, "engine_unavailable")
        results = (await asked(backend, PUBLISH, [{"channel": "news", "text": "x"}] * 2))["results"]
        assert [one["error"]["code"] for one in results] == ["engine_unavailable"] * 2
        cluster.start_engine()
        await cluster.all_linked()
        subscriber = await cluster.workers[1].open("news")
        await asked(backend, NEWS, b"y")
        assert await subscriber.text() == "y"


async def test_what_was_under_way_when_the_engine_died_has_an_unknown_outcome() -> None:
    async with serving() as cluster:
        one = cluster.workers[0]
        plain, with_id, batch = [await one.connect_api() for _ in range(3)]
        stand_still(cluster)
        await plain.send(call(NEWS, b"x", host="localhost"))
        await with_id.send(call(NEWS, b"x", "Idempotency-Key: a", host="localhost"))
        await batch.send(call(PUBLISH, [{"channel": "news", "text": "x"}] * 2, host="localhost"))
        await wait_until(lambda: one.worker.api is not None and one.worker.api._publishing._waiting == 4)
        cluster.stop_engine()
        assert problem(await plain.answer()) == (504, "outcome_unknown")
        assert problem(await with_id.answer()) == (504, "outcome_unknown")
        results = json.loads((await batch.answer()).body)["results"]
        assert [one["error"]["code"] for one in results] == ["outcome_unknown"] * 2
        cluster.start_engine()
        await cluster.all_linked()
        await asked(with_id, NEWS, b"x", "Idempotency-Key: a")


async def test_a_retry_after_a_lost_answer_publishes_once_also_at_another_worker() -> None:
    async with serving(2, engine_limits=Limits(link_silence_seconds=0.3)) as cluster:
        one, two = cluster.workers
        subscriber = await two.open("news")
        backend, elsewhere = await one.connect_api(), await two.connect_api()
        loop = asyncio.get_running_loop()
        loop.remove_reader(one.reactor.fileno())  # the answer comes, and is not read
        await backend.send(call(NEWS, b"once", "Idempotency-Key: a", host="localhost"))
        assert await subscriber.text() == "once"
        assert problem(await backend.answer()) == (504, "outcome_unknown")
        loop.add_reader(one.reactor.fileno(), one.reactor.turn)
        await cluster.all_linked()
        for client in (backend, elsewhere):
            await asked(client, NEWS, b"once", "Idempotency-Key: a")
        await asked(elsewhere, NEWS, b"next")
        assert await subscriber.text() == "next"
