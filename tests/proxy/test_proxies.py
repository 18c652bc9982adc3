"""What a site relies on, whichever of the shipped proxies stands before its broker."""

import json
import signal
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.client_frames import BINARY, CLOSE, PING, PONG, TEXT, close, frame
from tests.integration.harness import JSON, request
from tests.process.books import check_i7_log, until
from tests.process.command import read_end, read_frame
from tests.process.guarded import Site

from .conftest import BY_HEADER, BY_PROXY_PROTOCOL, ORIGIN, Behind, behind
from .proxies import Envoy, Haproxy, Nginx, Proxy, proxied, rewritten

KINDS: list[type[Proxy]] = [Nginx, Haproxy, Envoy]
SAYS = {Nginx: BY_HEADER, Haproxy: BY_PROXY_PROTOCOL, Envoy: BY_HEADER}
OFFER_BYTES = 4096


class Stand(NamedTuple):
    """A proxy before a broker that knows how this one says whose connection it is."""

    proxy: Proxy
    behind: Behind

    def addresses(self) -> list[str]:
        return [session["address"] for session in self.behind.sessions()]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Proxy]:
    found: type[Proxy] = request.param
    return found


@pytest.fixture(scope="module")
def before(kind: type[Proxy], by_header: Behind, by_proxy_protocol: Behind) -> Behind:
    return by_proxy_protocol if kind is Haproxy else by_header


@pytest.fixture(scope="module")
def stand(kind: type[Proxy], before: Behind, certificate: Path) -> Iterator[Stand]:
    with proxied(kind, before.upstream, certificate) as proxy:
        yield Stand(proxy, before)


def echoes(client: ssl.SSLSocket, payload: bytes = b"hello", opcode: int = TEXT) -> None:
    client.sendall(frame(opcode, payload))
    assert read_frame(client) == (opcode, payload)


def test_the_answer_names_one_subprotocol_exactly_as_the_page_wrote_it(stand: Stand) -> None:
    offer = "public.%6Eews|both, public.other|recv"
    client, answer = stand.proxy.ask(request(offer=offer))
    with closing(client):
        head = [line.split(": ", 1) for line in answer.split("\r\n")[1:-2]]
        assert [value for name, value in head if name.lower() == "sec-websocket-protocol"] == ["public.%6Eews|both"]
        echoes(client)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_the_largest_size_comes_back_whole_and_a_small_one_at_once(stand: Stand, opcode: int) -> None:
    with closing(stand.proxy.open()) as client:
        echoes(client, b"\x7f" * 65_536, opcode)
        echoes(client, b"", opcode)


def offer_of(size: int) -> tuple[str, list[str]]:
    """An offer of so many bytes, and its channels."""
    names: list[str] = []
    left = size - len(JSON)
    while left:
        part = min(left, 200) if left < 220 or left > 400 else left // 2
        names.append(f"public.{len(names):03}".ljust(part - 2, "x"))
        left -= part
    offer = ", ".join([JSON, *names])
    assert len(offer) == size
    return offer, names


def test_an_offer_that_fills_its_budget_reaches_the_broker_whole(stand: Stand) -> None:
    offer, names = offer_of(OFFER_BYTES)
    with closing(stand.proxy.open(offer)) as client:
        hello = json.loads(read_frame(client)[1])
        assert [channel["channel"] for channel in hello["channels"]] == names


def test_a_longer_offer_is_refused_by_the_broker_in_words_that_a_page_can_read(stand: Stand) -> None:
    offer, _ = offer_of(OFFER_BYTES + 1)
    client, answer = stand.proxy.ask(request(offer=offer, origin=ORIGIN))
    assert answer.startswith("HTTP/1.1 101 ")
    with closing(client):
        opcode, payload = read_frame(client)
        assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, 4500)
        assert b"the offer is longer than this server takes" in payload


def test_the_broker_sees_the_address_of_the_client(stand: Stand) -> None:
    with closing(stand.proxy.open(source="127.0.0.5")), closing(stand.proxy.open(source="127.0.0.6")):
        assert sorted(stand.addresses()) == ["127.0.0.5", "127.0.0.6"]
    until(lambda: not stand.behind.sessions(), lambda: str(stand.behind.sessions()))


# The second comes from an address that the broker trusts, so what it sends counts unless the proxy takes it away.
@pytest.mark.parametrize("source", ["127.0.0.5", "127.0.0.1"])
@pytest.mark.parametrize("header", ["X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9"])
def test_nobody_outside_chooses_the_address_that_he_is_known_by(stand: Stand, header: str, source: str) -> None:
    with closing(stand.proxy.open("public.news", header, source=source)):
        assert stand.addresses() == [source]
    until(lambda: not stand.behind.sessions(), lambda: str(stand.behind.sessions()))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/sessions",
        "/v1/channels/public.news/messages",
        "/metrics",
        "/readyz",
        "/livez",
        "/healthz",
        "/ws/",
        "/ws/../healthz",
        "/ws/%2e%2e/healthz",
        "//healthz",
        "/WS",
    ],
)
def test_nothing_but_the_websocket_and_its_client_is_reached_from_outside(stand: Stand, target: str) -> None:
    plain = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n\r\n".encode()
    assert stand.proxy.status(plain) == 404
    assert stand.proxy.status(request(target, offer="public.news")) == 404


def test_pages_get_the_brokers_client_through_the_proxy(stand: Stand) -> None:
    assert stand.proxy.status(b"GET /client.js HTTP/1.1\r\nHost: a\r\n\r\n") == 200
    assert stand.proxy.status(b"GET /client.js?v=2 HTTP/1.1\r\nHost: a\r\n\r\n") == 200


@pytest.fixture(scope="module")
def asked(site: Site) -> dict[str, bytes]:
    """One request for each place where a token may stand, by the token."""
    made = [site.token("--info", str(number)) for number in range(4)]
    return {
        made[0]: request(offer=f"{JSON}, bearer.{made[0]}, room.1"),
        made[1]: request("/ws", f"Authorization: Bearer {made[1]}", offer=f"{JSON}, room.1"),
        made[2]: request("/ws", f"Cookie: a=b; token={made[2]}", offer=f"{JSON}, room.1", origin=ORIGIN),
        made[3]: request(f"/ws?token={made[3]}", offer=f"{JSON}, room.1"),
    }


def lines_of(proxy: Proxy) -> list[dict[str, Any]]:
    """What its access log says of /ws."""
    lines = [line for line in proxy.logs().splitlines() if line.startswith("{")]
    return [found for found in map(json.loads, lines) if found["path"] == "/ws"]


def test_a_token_authenticates_and_no_log_of_the_proxy_holds_it(
    kind: type[Proxy], site: Site, certificate: Path, asked: dict[str, bytes]
) -> None:
    with behind(site, SAYS[kind]) as found, proxied(kind, found.upstream, certificate) as proxy:
        for head in asked.values():
            client, answer = proxy.ask(head)
            with closing(client):
                assert answer.startswith("HTTP/1.1 101 "), answer
                hello = json.loads(read_frame(client)[1])
                assert (hello["user"], hello["channels"][0]["channel"]) == ("ann", "room.1")
        # What goes wrong is what error logs are for.
        found.broker.signal(signal.SIGKILL)
        found.broker.status()
        assert {proxy.status(head) for head in asked.values()} <= {502, 503}
        for head in asked.values():
            assert proxy.status(head.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nHost: b")) >= 400
            assert proxy.status(head.replace(b"\r\nUpgrade", b"\r\nNo colon\r\nUpgrade")) >= 400
        until(lambda: len(lines_of(proxy)) >= 2 * len(asked), proxy.logs)
        proxy.stop()
        logs = proxy.logs()
        statuses = [line["status"] for line in lines_of(proxy)]
    assert statuses.count(101) == len(asked)
    assert statuses.count(502) + statuses.count(503) >= len(asked)
    for token in asked:
        for part in token.split("."):
            assert part not in logs


def test_pings_keep_an_idle_page_connected_and_without_them_the_proxy_cuts_it(
    kind: type[Proxy], site: Site, certificate: Path, before: Behind, tmp_path: Path
) -> None:
    config = tmp_path / "broker.toml"
    pings = "[limits]\nping_seconds = 0.6\npong_seconds = 0.6\n"
    config.write_text(rewritten(site.config.read_text(), {"[limits]\n": pings}))
    with (
        behind(site._replace(config=config), SAYS[kind]) as pinging,
        proxied(kind, pinging.upstream, certificate, kind.idle) as proxy,
        proxied(kind, before.upstream, certificate, kind.idle) as quiet_proxy,
        closing(proxy.open()) as pinged,
        closing(quiet_proxy.open()) as quiet,
    ):
        for _ in range(4):  # 0.54 to 0.66 seconds apart; the proxies cut after 2
            opcode, payload = read_frame(pinged)
            assert opcode == PING
            pinged.sendall(frame(PONG, payload))
        echoes(pinged)
        assert read_end(quiet) == b"", "it was cut, and nobody told it why: the page reads 1006"


def goodbye(client: ssl.SSLSocket) -> int:
    """The code of the broker's Close, which is answered."""
    opcode, payload = read_frame(client)
    assert opcode == CLOSE
    assert b"code=service_restart;in_ms=" in payload
    client.sendall(close(int.from_bytes(payload[:2])))
    return int.from_bytes(payload[:2])


def test_who_is_drained_is_told_and_comes_back_to_the_next_broker_and_notices_when_that_one_dies(
    kind: type[Proxy], site: Site, certificate: Path
) -> None:
    with (
        behind(site, SAYS[kind]) as first,
        proxied(kind, first.upstream, certificate) as proxy,
    ):
        clients = [proxy.open() for _ in range(20)]
        first.broker.signal(signal.SIGTERM)
        assert [goodbye(client) for client in clients] == [1012] * len(clients)
        for client in clients:
            with closing(client):
                assert read_end(client) == b""
        assert first.broker.status() == 0
        check_i7_log(first.broker)
        assert proxy.status(request(offer="public.news")) in (502, 503)
        with behind(site, SAYS[kind], upstream=proxy.upstream) as second:
            until(lambda: proxy.status(request(offer="public.news")) == 101, proxy.logs)
            with closing(proxy.open()) as client:
                echoes(client)
                second.broker.signal(signal.SIGKILL)
                assert read_end(client) == b""


def test_a_reload_of_the_proxy_keeps_open_sockets_and_refuses_nobody(
    kind: type[Proxy], before: Behind, certificate: Path
) -> None:
    with proxied(kind, before.upstream, certificate) as proxy, ExitStack() as stack:
        old = [stack.enter_context(closing(proxy.open())) for _ in range(4)]
        proxy.reload()
        new = stack.enter_context(closing(proxy.open("public.other")))
        echoes(new)
        for client in old:
            client.sendall(frame(TEXT, b"still here"))
            assert [read_frame(one) for one in old] == [(TEXT, b"still here")] * len(old)
        for client in [*old, new]:
            client.sendall(close(1000))
            assert read_frame(client)[0] == CLOSE
