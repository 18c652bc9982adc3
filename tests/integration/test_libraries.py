"""Two clients that other people wrote, `websockets` and `aiohttp`, subscribe, publish and close in both formats."""

import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.integration.harness import JSON, Broker, wait_until


def websocket(broker: Broker, *offer: str) -> connect:
    return connect(f"ws://{broker.address}/ws", subprotocols=[Subprotocol(each) for each in offer] or None, proxy=None)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def event(socket: ClientConnection) -> dict[str, object]:
    found = json.loads(await socket.recv(decode=True))
    assert isinstance(found, dict)
    return found


async def test_websockets_raw(broker: Broker) -> None:
    async with websocket(broker, "news") as one, websocket(broker, "news", "other") as two:
        assert one.subprotocol == two.subprotocol == "news"
        await one.send("grüße")
        await one.send(b"\x00\xff")
        for socket in (one, two):
            assert await socket.recv() == "grüße"
            assert await socket.recv() == b"\x00\xff"
        await one.send(["in ", "three ", "fragments"])
        assert await two.recv() == "in three fragments"
        await (await one.ping(b"alive?"))
        await one.close(1000, "done")
        assert one.close_code == 1000
    await broker.ended_for("peer_closed", 2)


async def test_websockets_json(broker: Broker) -> None:
    async with websocket(broker, JSON, "news") as one, websocket(broker, JSON) as two:
        assert one.subprotocol == JSON
        hello = await event(one)
        assert (hello["type"], hello["channels"]) == ("hello", [{"channel": "news", "index": 1}])
        await event(two)
        await two.send('{"type":"subscribe","channel":["news","room.42"],"id":1}')
        assert (await event(two))["type"] == "subscribed"
        await one.send('{"type":"publish","channel":"news","data":{"n":1},"echo":false,"id":2}')
        assert await event(one) == {"type": "ack", "id": 2, "subscriptions": 1}
        message = await event(two)
        assert (message["channel"], message["data"]) == ("news", {"n": 1})
        await two.send('{"type":"unsubscribe","channel":"news"}')
        assert (await event(two))["type"] == "unsubscribed"


async def test_websockets_without_any_offer_connects(broker: Broker) -> None:
    async with websocket(broker) as socket:
        assert socket.subprotocol is None
        await (await socket.ping())


@pytest.mark.parametrize("size", [65536, 65537])
async def test_websockets_learns_the_message_limit(broker: Broker, size: int) -> None:
    async with websocket(broker, "news") as socket:
        await socket.send("x" * size)
        if size == 65536:
            assert await socket.recv() == "x" * size
            return
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1009, "code=message_too_big;message is too big")


async def test_websockets_reads_why_it_was_closed_and_why_it_was_refused(broker: Broker) -> None:
    async with websocket(broker, "a", "b") as socket:
        await socket.send("for whom?")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4505
    with pytest.raises(InvalidStatus) as refused:
        await websocket(broker, "a|fast")
    assert refused.value.response.status_code == 400


async def test_websockets_answers_our_pings_by_itself(broker: Broker) -> None:
    async with websocket(broker, "news") as socket:
        for _ in range(3):
            read = broker.counter("n_bytes_read")
            broker.advance(28)
            await wait_until(lambda: broker.counter("n_bytes_read") > read)  # noqa: B023
        await socket.send("still here")
        assert await socket.recv() == "still here"


async def test_aiohttp_raw(broker: Broker, session: aiohttp.ClientSession) -> None:
    url = f"http://{broker.address}/ws"
    async with (
        session.ws_connect(url, protocols=("news",), compress=15) as one,
        session.ws_connect(url, protocols=("news|recv",)) as two,
    ):
        assert (one.protocol, two.protocol) == ("news", "news|recv")
        assert not one.compress
        await one.send_str("grüße")
        await one.send_bytes(b"\x00\xff")
        for socket in (one, two):
            assert await socket.receive_str() == "grüße"
            assert await socket.receive_bytes() == b"\x00\xff"
        await one.ping(b"alive?")
        await one.send_str("after the ping")
        for socket in (one, two):
            assert await socket.receive_str() == "after the ping"
        await one.close(code=1000)
        assert one.close_code == 1000
        await two.send_str("nowhere to go")
        closed = await two.receive()
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 4505)


async def test_aiohttp_json(broker: Broker, session: aiohttp.ClientSession) -> None:
    url = f"http://{broker.address}/ws?format=json&channel=news"
    async with session.ws_connect(url) as one, session.ws_connect(url) as two:
        assert (await one.receive_json())["type"] == "hello"
        assert (await two.receive_json())["type"] == "hello"
        await one.send_json({"type": "publish", "channel": "news", "text": "hi", "id": 1})
        assert (await one.receive_json())["text"] == "hi"
        assert (await one.receive_json())["type"] == "ack"
        assert (await two.receive_json())["text"] == "hi"
        await two.send_json({"type": "unsubscribe", "channel": "news"})
        assert (await two.receive_json())["type"] == "unsubscribed"
        await two.send_json({"type": "nonsense"})
        assert (await two.receive_json())["code"] == "unknown_type"
        assert await one.close()


async def test_aiohttp_reads_plain_answers(broker: Broker, session: aiohttp.ClientSession) -> None:
    async with session.get(f"http://{broker.address}/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")
    async with session.get(f"http://{broker.address}/ws") as answer:
        assert answer.status == 426
        assert (await answer.json(content_type="application/problem+json"))["status"] == 426
    async with session.post(f"http://{broker.address}/ws", data=b"hello") as answer:
        assert answer.status == 405
    async with session.head(f"http://{broker.address}/") as answer:
        assert answer.status == 405
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await session.ws_connect(f"http://{broker.address}/ws", origin="https://evil.example")
    assert refused.value.status == 403
