"""What a client of the admin port may not do to it, and what an error of ours looks like there."""

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from broker.admin.health import Health
from broker.admin.port import AdminPort
from broker.config.schema import Config
from tests.integration.harness import Client

REQUEST_SECONDS = 0.2
HEAD = b"GET %s HTTP/1.1\r\nHost: a\r\n"


def well() -> Health:
    return Health(0, [], [], None, False, 0, 0, 1.0, 1.0)


@asynccontextmanager
async def connected(
    registry: CollectorRegistry | None = None, health: Callable[[], Health] = well
) -> AsyncIterator[Client]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    admin = AdminPort(Config(), listener, registry or CollectorRegistry(), health, request_seconds=REQUEST_SECONDS)
    await admin.start()
    with socket.socket() as sock:
        sock.setblocking(False)
        client = Client(sock)
        await client.loop.sock_connect(sock, listener.getsockname())
        try:
            yield client
        finally:
            await admin.stop()
        assert await client.was_reset() or not client.input


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(HEAD % b"/livez", id="half a head"),
        pytest.param(HEAD % b"/metrics" + b"Content-Length: 9\r\n\r\n", id="no body"),
    ],
)
async def test_a_request_that_never_ends_is_ended(begun: bytes) -> None:
    async with connected() as client:
        await client.send(begun)
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (408, "request_timeout")


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(HEAD % b"/livez" + b"Content-Length: 9\r\n\r\n", id="no body"),
        pytest.param(HEAD % b"/metrics" + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe", id="half a chunk"),
    ],
)
async def test_a_body_is_not_waited_for_when_the_answer_is_there(asked: bytes) -> None:
    async with connected() as client:
        await client.send(asked)
        assert (await client.answer()).status == 200


class Broken(Collector):
    def __init__(self) -> None:
        self.breaks = False

    def collect(self) -> Iterable[Metric]:
        if self.breaks:
            raise RuntimeError("secret")
        return []


async def test_an_error_of_ours_is_500_without_its_text_and_the_port_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    registry, broken = CollectorRegistry(), Broken()
    registry.register(broken)
    async with connected(registry) as client:
        broken.breaks = True
        await client.send(HEAD % b"/metrics" + b"\r\n")
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal_error")
        assert b"secret" not in answer.body
        assert "request of the admin port failed" in caplog.text
        broken.breaks = False
        await client.send(HEAD % b"/metrics" + b"\r\n")
        assert (await client.answer()).status == 200
