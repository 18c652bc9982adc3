"""What a worker takes over while it serves: who may connect and who may hear what, by the next who asks."""

import hashlib

import msgspec
import pytest

from broker.config.load import load
from broker.config.schema import Config
from tests.client_frames import PING, frame
from tests.integration.calling import SLOW, asked, call, refused, serving_api
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


async def test_keys_for_an_api_that_nobody_listens_for_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async with running(server_dev=False) as broker:
        await broker.worker.reload(load(None, {"api.keys.back": {"sha256": "0" * 64, "scopes": ["read"]}}))
        assert "nothing listens on api.listen until a restart" in caplog.text
