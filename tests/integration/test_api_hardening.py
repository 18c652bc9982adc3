"""What an HTTP client may not do to the API: smuggle, drip, flood, hold on. Named after hardening's rows."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.calling import KEY, asked, call, problem, refused, serving_api
from tests.integration.harness import Broker, wait_until

TARGET = "/v1/channels/news/messages"
HEAD = f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = call("/v1/channels/smuggled/messages", b"x", host="localhost")


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with serving_api() as broker:
        yield broker


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="CL+TE"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", id="TE+CL"),
        pytest.param(HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", id="two CL"),
        pytest.param(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", id="two other CL"),
        pytest.param(HEAD + b"Content-Length: +5\r\n\r\nhello", id="CL +5"),
        pytest.param(HEAD + b"Content-Length: 0x5\r\n\r\nhello", id="CL 0x5"),
        pytest.param(HEAD + b"Content-Length: 5, 5\r\n\r\nhello", id="CL list"),
        pytest.param(CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", id="chunk 0x5"),
        pytest.param(CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", id="chunk +5"),
        pytest.param(CHUNKED + b"5\r\nhelloXX0\r\n\r\n", id="bad chunk CRLF"),
        pytest.param(CHUNKED + b"5\r\nhello\n0\r\n\r\n", id="chunk ends with LF"),
        pytest.param(CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n", id="LF in chunk extension"),
        pytest.param(HEAD + b"Content-Length : 5\r\n\r\nhello", id="space before colon"),
        pytest.param(HEAD + b"X: a\n\r\n", id="bare LF"),
        pytest.param(HEAD + b"X: a\rContent-Length: 5\r\n\r\nhello", id="bare CR"),
        pytest.param(HEAD + b"X: a\r\n b\r\n\r\n", id="obs-fold"),
        pytest.param(HEAD + b"X: a\0b\r\n\r\n", id="NUL"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="another coding"),
        pytest.param(HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="unknown coding"),
        pytest.param(CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n", id="TE in 1.0"),
        pytest.param(HEAD.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n", id="another version"),
        pytest.param(HEAD.replace(b"POST ", b"SMUGGLE ") + b"\r\n", id="unknown method"),
    ],
)
async def test_a_request_that_others_read_otherwise_is_400_and_nothing_behind_it_is_read(
    broker: Broker, request_bytes: bytes
) -> None:
    subscriber = await broker.open("smuggled")
    client = await broker.connect_api()
    await client.send(request_bytes + SMUGGLED)
    assert problem(await client.answer()) == (400, "bad_request")
    rest = await client.was_reset() or client.input
    assert not rest or rest is True
    await asked(await broker.connect_api(), "/v1/channels/smuggled/messages", b"honest")
    assert await subscriber.text() == "honest"


@pytest.mark.parametrize(
    "more",
    [b"Connection: close\r\n\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"],
    ids=["close", "upgrade"],
)
async def test_nothing_follows_a_request_that_closes_or_upgrades(broker: Broker, more: bytes) -> None:
    subscriber = await broker.open("smuggled")
    client = await broker.connect_api()
    head = call("/v1/channels", host="localhost")[:-2]
    await client.send(head + more + SMUGGLED)
    await client.was_reset()
    assert client.input.count(b"HTTP/1.1 ") <= 1
    await asked(await broker.connect_api(), "/v1/channels/smuggled/messages", b"honest")
    assert await subscriber.text() == "honest"


async def test_a_trailer_is_no_header(broker: Broker) -> None:
    client = await broker.connect_api()
    head = CHUNKED.replace(f"Authorization: Bearer {KEY}\r\n".encode(), b"")
    answer = await client.ask(head + f"0\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
    assert problem(answer) == (401, "not_authenticated")


async def test_pipelined_requests_are_answered_in_order(broker: Broker) -> None:
    client = await broker.connect_api()
    await client.send(call(TARGET, b"1", host="localhost") + call("/v1/nothing", host="localhost"))
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 404


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (HEAD + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    ],
    ids=["bytes", "lines", "target"],
)
async def test_a_head_has_a_bound(broker: Broker, head: bytes, status: int) -> None:
    client = await broker.connect_api()
    await client.send(head)
    assert problem(await client.answer()) == (status, "head_too_large")
    await client.was_reset()


async def test_a_large_body_behind_a_small_head_is_no_large_head(broker: Broker) -> None:
    client = await broker.connect_api()
    answer = await client.ask(call(TARGET, b"x" * 60_000, host="localhost"))
    assert answer.status == 200


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"Content-Length: 9\r\n\r\nhello", CHUNKED + b"5\r\nhe"])
async def test_a_request_that_drips_is_ended_in_time(sent: bytes) -> None:
    async with serving_api(api_request_seconds=0.2) as broker:
        client = await broker.connect_api()
        for at in range(0, len(sent), 40):
            await client.send(sent[at : at + 40])
        assert problem(await client.answer()) == (408, "request_timeout")
        await client.closed()
        assert broker.counter("n_api_timeouts") == 1


async def test_a_connection_without_a_request_is_closed_in_time() -> None:
    async with serving_api(api_keep_alive_seconds=0.2) as broker:
        fresh, used = await broker.connect_api(), await broker.connect_api()
        await asked(used, TARGET, b"x")
        assert await fresh.closed() == b""
        assert await used.closed() == b""


async def test_more_connections_than_the_bound_are_told_to_come_back() -> None:
    async with serving_api(api_max_connections=2) as broker:
        held = [await broker.connect_api() for _ in range(2)]
        for one in held:
            await asked(one, TARGET, b"x")
        client = await broker.connect_api()
        answer = await client.answer()
        assert problem(answer) == (503, "overloaded")
        assert answer.one("retry-after")
        await client.closed()
        held[0].close()
        assert broker.worker.api is not None
        connections = broker.worker.api._server.connections
        await wait_until(lambda: len(connections) == 1, "a place")
        await asked(await broker.connect_api(), TARGET, b"x")


async def test_a_thousand_dripping_sockets_do_not_hinder_a_good_one(broker: Broker) -> None:
    dripping = [await broker.connect_api() for _ in range(900)]
    for one in dripping:
        await one.send(HEAD[:20])
    client = await broker.connect_api()
    for _ in range(20):
        await asked(client, TARGET, b"x")


@pytest.mark.parametrize("value", ["a%0d%0aX-Evil: 1", "a%0aX-Evil", "%1b[31m"])
async def test_line_ends_and_escapes_in_a_path_reach_no_header_and_no_log(
    broker: Broker, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    client = await broker.connect_api()
    await client.send(call(f"/v1/channels/{value.replace(' ', '%20')}/messages", b"x", host="localhost"))
    answer = await client.answer()
    assert problem(answer) == (422, "bad_channel")
    assert answer.all("x-evil") == []
    assert caplog.text == ""


@pytest.mark.parametrize("path", ["/schema", "/schema/swagger", "/schema/openapi.json", "/schema/openapi.yml"])
async def test_the_framework_serves_no_pages_of_its_own(broker: Broker, path: str) -> None:
    assert await refused(await broker.connect_api(), path) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/users/ann/subscribe", "/v1/publish"])
async def test_a_body_nested_deeper_than_anybody_reads_is_no_mistake_of_ours(
    broker: Broker, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    deep = b"[" * 100_000
    body = b'{"channel":"a","data":%b' % deep if path == "/v1/publish" else b'{"channels":%b' % deep
    client = await broker.connect_api()
    assert await refused(client, path, body, "Content-Type: application/json") == (400, "bad_json")
    assert not caplog.records
