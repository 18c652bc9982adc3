"""What one client may send, and who is let in: what its client reads, the counter, and those whom a limit spares."""

import json
from typing import Any

import pytest

from broker.gateway.refusals import native_closes
from broker.native._connection import CAUSES, CONNECTION_BYTES
from tests.client_frames import BINARY, CONTINUATION, PING, PONG, TEXT, frame
from tests.integration.harness import JSON, Broker, Client, request, running, wait_until
from tests.unit.native.proxy_headers import LOCAL, proxied

MESSAGES = {"limits_messages_per_second": 10, "limits_message_burst": 20}
BYTES = {"limits_bytes_per_second": 1000, "limits_byte_burst": 2000, "limits_max_message_bytes": 2000}
ORIGIN = "http://localhost:3000"
TOO_MUCH = "too much in too short a time"


def test_what_a_connection_is_bounded_by_costs_it_a_few_bytes() -> None:
    assert CONNECTION_BYTES <= 376


async def cut(broker: Broker, client: Client, in_ms: int) -> None:
    while True:
        opcode, payload = await client.frame()
        if opcode == 8:
            break
    assert payload[:2] == (4129).to_bytes(2)
    assert payload[2:].decode() == f"code=rate_limited;in_ms={in_ms};{TOO_MUCH}"
    assert broker.counter("n_rate_limited") == 1
    client.close()
    await broker.ended_for("rate_limited")


PIECES = {
    "messages": frame(TEXT, b"a"),
    "pings": frame(PING, b""),
    "pongs": frame(PONG, b""),
    "empty fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 9 + frame(CONTINUATION, b""),
}


@pytest.mark.parametrize("broker", [MESSAGES], indirect=True)
@pytest.mark.parametrize("offer", ["news|send", JSON])
@pytest.mark.parametrize("what", PIECES)
async def test_a_client_that_sends_too_many_is_closed_and_told_when_to_come_back(
    broker: Broker, offer: str, what: str
) -> None:
    piece = frame(TEXT, b'{"type":"ping"}') if (offer, what) == (JSON, "messages") else PIECES[what]
    client = await broker.open(offer)
    await client.send(piece * 21)
    await cut(broker, client, 2000)


@pytest.mark.parametrize("broker", [BYTES], indirect=True)
@pytest.mark.parametrize("offer", ["news|send", JSON])
async def test_a_client_that_sends_too_many_bytes_is_closed(broker: Broker, offer: str) -> None:
    client = await broker.open(offer)
    await client.send(frame(PING, b"x" * 100) * 30)
    await cut(broker, client, 2000)


@pytest.mark.parametrize("broker", [BYTES], indirect=True)
async def test_the_largest_message_always_fits_the_bucket(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(frame(BINARY, b"x" * 2000))
    assert await client.frame() == (BINARY, b"x" * 2000)
    assert broker.counter("n_rate_limited") == 0


@pytest.mark.parametrize("broker", [MESSAGES], indirect=True)
async def test_a_client_that_waits_may_send_again_and_a_neighbour_is_not_touched(broker: Broker) -> None:
    client, neighbour = await broker.open("news"), await broker.open("news|send")
    for burst in range(5):
        await client.send(frame(TEXT, b"a") * 20)
        for _ in range(20):
            assert await client.text() == "a"
        broker.advance(2.0)
        assert broker.counter("n_published") == 20 * (burst + 1)
    flooding = await broker.open("news|send")
    await flooding.send(frame(TEXT, b"b") * 50)
    await wait_until(lambda: broker.counter("n_rate_limited") == 1)
    await neighbour.send(frame(TEXT, b"still here"))
    heard = [await client.text() for _ in range(21)]
    assert heard == ["b"] * 20 + ["still here"], "what was sent before the end of the bucket is published"


async def test_with_server_dev_nobody_is_bounded_unless_it_is_asked_for(broker: Broker) -> None:
    client = await broker.open("news|send")
    await client.send(frame(TEXT, b"") * 20_000)
    await wait_until(lambda: broker.counter("n_published") == 20_000)
    limits = broker.worker._config.limits
    assert (limits.messages_per_second, limits.bytes_per_second, limits.upgrades_per_second) == (0, 0, 0)


def test_without_a_bound_the_close_has_no_pause() -> None:
    assert native_closes()[CAUSES.index("rate_limited")].startswith(b"\x10\x21code=rate_limited;in_ms=5000;")


# Upgrades.


async def refused(broker: Broker, status: int, code: str, *extra: str) -> Client:
    client = await broker.connect()
    answer = await client.ask(request("/ws", *extra, offer="news", origin=ORIGIN))
    assert answer.status == status
    assert int(answer.one("Retry-After")) > 0
    assert answer.one("Content-Type") == "application/problem+json"
    assert json.loads(answer.body)["code"] == code
    assert await client.closed() == b""
    return client


@pytest.mark.parametrize("broker", [{"limits_upgrades_per_second": 10, "limits_upgrade_burst": 3}], indirect=True)
async def test_when_too_many_come_at_once_the_rest_is_told_to_come_later(broker: Broker) -> None:
    for _ in range(3):
        await broker.open("news")
    await refused(broker, 503, "overloaded")
    assert broker.counter("n_refused_upgrades") == 1
    health = await broker.connect()
    assert (await health.ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    broker.advance(0.1)
    await broker.open("news")
    assert broker.counter("n_refused_upgrades") == 1


@pytest.mark.parametrize("broker", [{"limits_max_connections_total": 2}], indirect=True)
async def test_a_full_broker_answers_503_and_those_refused_take_no_place(broker: Broker) -> None:
    members = [await broker.open("news") for _ in range(2)]
    for count in range(1, 4):
        await refused(broker, 503, "overloaded")
        assert broker.counter("n_refused_total") == count
    members[0].close()
    await wait_until(lambda: broker.counter("g_sessions") == 1)
    await broker.open("news")


# Addresses.

PROXIED: dict[str, Any] = {"server_trusted_proxies": ["127.0.0.1"], "limits_max_connections_per_address": 1}


@pytest.mark.parametrize("broker", [{"limits_max_connections_per_address": 2}], indirect=True)
async def test_an_address_with_too_many_connections_gets_no_more_until_one_leaves(broker: Broker) -> None:
    members = [await broker.open("news") for _ in range(2)]
    await refused(broker, 429, "rate_limited")
    assert broker.counter("n_refused_address") == 1
    members[0].close()
    await wait_until(lambda: broker.counter("g_sessions") == 1)
    await broker.open("news")
    await refused(broker, 429, "rate_limited")


@pytest.mark.parametrize("broker", [{"limits_blocked_after_refusals_per_minute": 3}], indirect=True)
async def test_an_address_that_keeps_failing_is_not_listened_to_for_the_rest_of_its_minute(broker: Broker) -> None:
    await broker.open("news")
    for offer, origin in (("a|fast", None), ("a|fast", ORIGIN), ("news", "https://evil.example"), ("a|b", None)):
        client = await broker.connect()
        await client.ask(request(offer=offer, origin=origin))
    await refused(broker, 429, "rate_limited")
    assert broker.counter("n_refused_blocked") == 1
    broker.advance(60.1)
    await broker.open("news")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("forwarded", "Forwarded: for={}"),
        ("forwarded", "Forwarded: for=198.51.100.9, for={};proto=https;by=_me"),
        ("forwarded", "Forwarded: for=198.51.100.9\r\nForwarded: for={}"),
        ("x-forwarded-for", "X-Forwarded-For: 198.51.100.9, {}"),
        ("x-forwarded-for", "X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: {}, 127.0.0.1"),
    ],
)
async def test_behind_a_proxy_each_client_is_its_own_address(source: str, line: str) -> None:
    async with running(**PROXIED, server_client_address=source) as broker:
        one = await broker.open("news", "/ws", line.format("203.0.113.1"))
        await refused(broker, 429, "rate_limited", line.format("203.0.113.1"))
        await broker.open("news", "/ws", line.format("203.0.113.2"))
        found = await broker.worker.control.sessions(session=broker.reactor.session_id(_conn(broker)))
        assert [each.address for each in found] == ["203.0.113.1"]
        one.close()
        await wait_until(lambda: broker.counter("g_sessions") == 1)
        await broker.open("news", "/ws", line.format("203.0.113.1"))


def _conn(broker: Broker) -> int:
    return next(conn for conn in broker.reactor.ids(0, 64) if broker.reactor.address(conn) == "203.0.113.1")


async def test_nobody_but_a_trusted_proxy_says_whose_connection_it_is() -> None:
    settings: dict[str, Any] = {
        **PROXIED,
        "server_trusted_proxies": ["10.0.0.0/8"],
        "server_client_address": "x-forwarded-for",
    }
    async with running(**settings) as broker:
        await broker.open("news", "/ws", "X-Forwarded-For: 203.0.113.1")
        await refused(broker, 429, "rate_limited", "X-Forwarded-For: 203.0.113.2")


# The PROXY protocol.

PROXY: dict[str, Any] = {**PROXIED, "server_proxy_protocol": True}


@pytest.mark.parametrize("broker", [PROXY], indirect=True)
async def test_a_client_behind_a_tcp_proxy_is_its_own_address_wherever_the_header_is_cut(broker: Broker) -> None:
    head = proxied("203.0.113.1", b"\x04\x00\x02hi") + request(offer="news") + frame(TEXT, b"hello")
    read = 0
    for at in range(1, len(head), 3):
        client = await broker.connect()
        await client.send(head[:at])
        await broker.has_read(read + at)
        await client.send(head[at:])
        assert (await client.answer()).status == 101
        assert await client.text() == "hello"
        assert [broker.reactor.address(conn) for conn in broker.reactor.ids(0, 64)] == ["203.0.113.1"]
        client.close()
        await wait_until(lambda: broker.reactor.connections == 0)
        read += len(head)


@pytest.mark.parametrize("broker", [PROXY], indirect=True)
async def test_a_health_check_of_the_proxy_itself_is_answered(broker: Broker) -> None:
    client = await broker.connect()
    assert (await client.ask(LOCAL + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200


@pytest.mark.parametrize("broker", [PROXY], indirect=True)
@pytest.mark.parametrize(
    "data",
    [request(offer="news"), b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n" + request(), b"\r\n\r\n\0\r\nQUIT\n\x31"],
)
async def test_who_comes_without_a_proxy_header_is_closed_unanswered(broker: Broker, data: bytes) -> None:
    client = await broker.connect()
    await client.send(data)
    await broker.ended_for("proxy_header")
    assert not client.input
    assert broker.counter("n_refused_proxy") == 1


async def test_a_proxy_header_of_a_stranger_is_not_believed() -> None:
    async with running(**{**PROXY, "server_trusted_proxies": ["10.0.0.0/8"]}) as broker:
        client = await broker.connect()
        await client.send(proxied("203.0.113.1") + request(offer="news"))
        await broker.ended_for("proxy_header")
        assert broker.counter("n_opened") == 0
