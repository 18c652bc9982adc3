"""What a worker takes over while it serves: who may connect and who may hear what, by the next who asks."""

from broker.config.load import load
from broker.config.schema import Config
from tests.client_frames import PING, frame
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
