"""Vulnerabilities that others had in their handshakes, one test each, named after them.

Elsewhere: peers that vanish at each stage of a handshake, and connecting with no, one and duplicate channels
(test_ends.py); a thousand dripping sockets (test_handshake.py).
"""

import logging
import re
import time
from collections.abc import Callable

import pytest

from broker.gateway.sessionlog import SessionLog
from broker.native._request import parse
from tests.client_frames import CLOSE, TEXT, frame
from tests.integration.harness import JSON, Broker, request, wait_until

OFFER = "Sec-WebSocket-Protocol"
EXTENSIONS = "Sec-WebSocket-Extensions"
SMALL, TIMES = 1000, 16


def grows_linearly(make: Callable[[int], bytes]) -> None:
    """16 times the input costs 16 times the work, and 256 times would be quadratic: halfway between, in proportion."""

    def seconds(data: bytes) -> float:
        started = time.process_time()
        for _ in range(20):
            parse(data, max_head_bytes=1 << 20, max_headers=1 << 20)
        return time.process_time() - started

    small, large = make(SMALL), make(SMALL * TIMES)
    assert min(seconds(large) for _ in range(5)) < 64 * min(seconds(small) for _ in range(5)) + 0.01


def test_ws_cve_2021_32640_spaces_in_an_offer_are_split_in_linear_time() -> None:
    grows_linearly(lambda size: request(offer="b" + " " * size + "x"))


def test_tornado_cve_2025_67725_repeated_headers_cost_linear_time() -> None:
    grows_linearly(lambda size: request("/ws", *(f"{OFFER}: t{i}" for i in range(size))))


async def test_tornado_ghsa_pcg2_folded_headers_are_refused(broker: Broker) -> None:
    for fold in ("\r\n ", "\r\n\t"):
        client = await broker.connect()
        assert (await client.ask(request("/ws", f"X-Long: a{fold}b" + f"{fold}c" * 50))).status == 400
        assert await client.closed() == b""


async def test_tungstenite_rustsec_2023_0065_a_head_that_drips_is_not_read_again_from_its_start(broker: Broker) -> None:
    client = await broker.connect()
    head = request("/ws", "X: " + "a" * 2000)
    for sent in range(len(head)):
        await client.send(head[sent : sent + 1])
        await broker.has_read(sent + 1)
    assert (await client.answer()).status == 101
    assert broker.counter("n_requests") == 1


@pytest.mark.parametrize("count", [129, 1000, 10_000])
async def test_ws_cve_2024_37890_too_many_headers_are_431(broker: Broker, count: int) -> None:
    client = await broker.connect()
    assert (await client.ask(request("/ws", *("X: a" for _ in range(count))))).status == 431
    assert await client.closed() == b""


@pytest.mark.parametrize("name", ["constructor", "__class__", "__proto__", "hasOwnProperty", "__init__"])
async def test_ws_ghsa_5v72_an_extension_named_like_an_internal_is_ignored(broker: Broker, name: str) -> None:
    client = await broker.connect()
    answer = await client.ask(request("/ws", f"{EXTENSIONS}: {name}; {name}={name}"))
    assert answer.status == 101
    assert answer.all(EXTENSIONS) == []


def test_ws_ghsa_5v72_ten_thousand_extension_parameters_cost_linear_time() -> None:
    grows_linearly(lambda size: request("/ws", f"{EXTENSIONS}: x" + "; p" * size))
    assert parse(request("/ws", f"{EXTENSIONS}: x" + "; p" * 10_000), max_head_bytes=1 << 20).status == 101


@pytest.mark.parametrize("name", [OFFER, EXTENSIONS])
def test_deno_cve_2026_55517_bytes_beyond_ascii_in_an_offer_are_400(name: str) -> None:
    for byte in (0, 13, *range(0x80, 0x100)):
        assert parse(request("/ws", f"{name}: a{chr(byte)}b")).status == 400, byte


@pytest.mark.parametrize(
    "name",
    ["Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin", "Cookie", "User-Agent"],
)
def test_nul_and_cr_in_any_header_are_400_and_no_byte_raises(name: str) -> None:
    for byte in (0, 13):
        assert parse(request("/ws", f"{name}: a{chr(byte)}b")).status == 400, byte
    for byte in range(0x80, 0x100):
        assert parse(request("/ws", f"{name}: a{chr(byte)}b")).status in (101, 400, 426), byte


async def test_websocket_smuggling_a_refused_upgrade_is_the_last_request_of_its_socket(broker: Broker) -> None:
    for refused in (
        request(sec_websocket_version="7"),
        request(offer="a|fast"),
        request(origin="https://evil.example"),
    ):
        before = broker.counter("n_requests")
        client = await broker.connect()
        assert (await client.ask(refused + request("/healthz"))).status in (400, 403, 426)
        assert await client.closed() == b""
        assert broker.counter("n_requests") == before + 1


@pytest.mark.parametrize("offer", ["a%0d%0aX-Injected%3A1", "%0D%0AX-Injected%3A1", "a%00"])
async def test_response_splitting_an_encoded_line_end_in_the_offer_stays_encoded(broker: Broker, offer: str) -> None:
    for origin in (None, "http://localhost"):
        client = await broker.connect()
        answer = await client.ask(request(offer=offer, origin=origin))
        assert answer.all("X-Injected") == []
        assert answer.all(OFFER) in ([], [offer])


@pytest.mark.parametrize("dirty", ["%0aERROR forged", "\x1b[31mred", "%1b[2J"])
async def test_uvicorn_cve_2020_7694_nothing_a_client_writes_makes_a_line_of_the_log(
    broker: Broker, caplog: pytest.LogCaptureFixture, dirty: str
) -> None:
    target = "/ws?channel=" + dirty.replace(" ", "%20").replace("\x1b", "%1b")
    broker.worker.gateway.opening.sessions = SessionLog(broker.worker.reactor, access=True)
    with caplog.at_level(logging.DEBUG):
        for head in (
            request(target, "User-Agent: forged red" + dirty),
            request("/forged" + dirty.replace(" ", "").replace("\x1b", ""), offer="forged"),
            request(offer="forged%0aERROR"),
            b"GET /forged" + dirty.encode() + b" HTTP/1.1\r\n\r\n",
        ):
            client = await broker.connect()
            await client.ask(head)
            client.close()
        client = await broker.open(JSON)
        await client.send(frame(TEXT, b'{"type":"subscribe","channel":"forged\\nERROR"}'))
        await client.send(frame(CLOSE, (1000).to_bytes(2) + b"\nERROR forged \x1b[31m"))
        await client.closed()
    lines = caplog.text.splitlines()
    assert any("session ended" in line for line in lines), "the log was looked at"
    assert all(re.fullmatch(r"[^\x00-\x1f\x7f]*", line) for line in lines)
    assert not any("forged" in line for line in lines)


@pytest.mark.parametrize("stage", ["accepted", "half a head", "whole head", "opened", "with a frame"])
async def test_nats_fcc826057_a_peer_that_resets_at_any_stage_of_its_handshake_leaves_nothing_behind(
    broker: Broker, stage: str
) -> None:
    """A reset while the 101 is written, too: what is left open or counted wrong shows when the broker is settled."""
    head = request(offer=f"{JSON}, news")
    said = {"accepted": b"", "half a head": head[:40], "whole head": head, "with a frame": head + frame(TEXT, b"{}")}
    for _ in range(20):
        client = await broker.connect()
        if stage == "opened":
            await client.ask(head)
        elif said[stage]:
            await client.send(said[stage])
        client.reset()
    await wait_until(lambda: broker.reactor.connections == 0 and broker.counter("n_accepted") == 20)
    stays = await broker.open("news")
    await stays.caught_up()
