"""What a worker takes over while it serves: who may connect and who may hear what, by the next who asks."""

import hashlib

import msgspec

from broker.config.load import load
from broker.config.schema import Config
from tests.client_frames import PING, frame
from tests.integration.calling import KEYS, SLOW, asked, call, refused, serving_api
from tests.integration.harness import Broker, request, running

ORIGIN = "https://app.example"


def site(*, origin: str, subscribe: str) -> Config:
    return load(None, {"server.origins": [origin], "channels.news": {"subscribe": subscribe}})


async def status(broker: Broker, origin: str | None = None) -> int:
    client = await broker.connect()
    return (await client.ask(request(offer="news", origin=origin))).status


async def test_permissions_and_origins_change_under_connections_that_stay() -> None:
    closed = {"news": {"subscribe": "claim"}}
    async with running(server_dev=False, server_refusal="http", channels=closed) as broker:
        assert await status(broker) == 401
        assert await status(broker, ORIGIN) == 403
        await broker.worker.reload(site(origin=ORIGIN, subscribe="anyone"))
        stays = await broker.open("news", origin=ORIGIN)
        await broker.worker.reload(site(origin="https://other.example", subscribe="anyone"))
        assert await status(broker, ORIGIN) == 403
        assert await status(broker, "https://other.example") == 101
        await broker.worker.reload(site(origin=ORIGIN, subscribe="server"))
        assert await status(broker) == 403
        await stays.send(frame(PING, b"still here"))
        assert await stays.pong() == b"still here"


async def test_keys_and_hosts_of_the_api_change_under_connections_that_stay() -> None:
    new, slow = "another-key", {"api.keys.slow": KEYS["slow"]}
    others = {"api.keys.new": {"sha256": hashlib.sha256(new.encode()).hexdigest()}, **slow}
    target = "/v1/channels/news/messages"
    async with serving_api() as broker:
        backend = await broker.connect_api()
        await asked(backend, target, b"x")
        for _ in range(2):
            await asked(backend, target, b"x", key=SLOW)
        await broker.worker.reload(load(None, {"server.dev": True, "api.hosts": ["api.example"], **others}))
        assert await refused(backend, target, b"x") == (421, "wrong_host")
        assert await refused(backend, target, b"x", host="api.example") == (401, "not_authenticated")
        assert (await backend.ask(call(target, b"x", key=new, host="api.example"))).status == 200
        limited = await refused(backend, target, b"x", key=SLOW, host="api.example")
        assert limited == (429, "rate_limited"), "a key that stays is as tired as it was"
        await broker.worker.reload(load(None, {"server.dev": True, **slow}))
        assert await refused(backend, target, b"x", key=new) == (401, "not_authenticated")
        await broker.worker.reload(load(None, {"server.dev": True}))
        assert await refused(backend, target, b"x", key=SLOW) == (401, "not_authenticated")


async def test_a_key_of_the_api_that_was_taken_out_of_the_file_opens_nothing_any_more() -> None:
    async with serving_api() as broker:
        backend = await broker.connect_api()
        publish = ("/v1/publish", {"channel": "news", "text": "x"})
        assert (await asked(backend, *publish))["subscriptions"] == 0
        config = broker.worker._config
        left = {name: key for name, key in config.api.keys.items() if name != "back"}
        new = {"next": msgspec.structs.replace(config.api.keys["back"], sha256=hashlib.sha256(b"new").hexdigest())}
        api = msgspec.structs.replace(config.api, keys={**left, **new}, hosts=["api.example"])
        await broker.worker.reload(msgspec.structs.replace(config, api=api))
        # On the connection that is open already, too.
        assert await refused(backend, *publish, host="api.example") == (401, "not_authenticated")
        assert await refused(backend, *publish, key="new") == (421, "wrong_host")
        answer = await backend.ask(call(*publish, key="new", host="api.example"))
        assert answer.status == 200, answer


async def test_a_reload_does_not_give_a_key_of_the_api_another_burst() -> None:
    async with serving_api() as broker:
        backend = await broker.connect_api()
        batch = [{"channel": "news", "text": "x"}] * 100
        await asked(backend, "/v1/publish", batch, key=SLOW)
        await broker.worker.reload(broker.worker._config)
        assert await refused(backend, "/v1/publish", batch, key=SLOW) == (429, "rate_limited")
