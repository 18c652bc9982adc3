"""What only some of the shipped proxies can do, or do in a way of their own."""

import signal
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.client_frames import CLOSE, TEXT, frame
from tests.integration.harness import request
from tests.process.books import until
from tests.process.command import read_frame
from tests.process.guarded import Site

from .conftest import BY_HEADER, BY_PROXY_PROTOCOL, Behind, behind
from .proxies import Envoy, Haproxy, Nginx, Proxy, Upstream, proxied, rewritten

OF_ONE_ADDRESS = 100


@pytest.fixture(params=[Nginx, Haproxy], ids=lambda kind: kind.__name__)
def limiting(request: pytest.FixtureRequest) -> type[Proxy]:
    found: type[Proxy] = request.param
    return found


def test_one_address_cannot_take_all_connections_and_others_are_served(
    limiting: type[Proxy], by_header: Behind, by_proxy_protocol: Behind, certificate: Path
) -> None:
    before = by_proxy_protocol if limiting is Haproxy else by_header
    with proxied(limiting, before.upstream, certificate) as proxy, ExitStack() as stack:
        for _ in range(OF_ONE_ADDRESS):
            last = stack.enter_context(closing(proxy.open(source="127.0.0.5")))
        client, answer = proxy.ask(request(offer="public.news"), source="127.0.0.5")
        client.close()
        assert answer.startswith("HTTP/1.1 429 ")
        proxy.open(source="127.0.0.6").close()
        last.close()
        until(lambda: taken(proxy, "127.0.0.5"), proxy.logs)


def taken(proxy: Proxy, source: str) -> bool:
    client, answer = proxy.ask(request(offer="public.news"), source)
    client.close()
    return answer.startswith("HTTP/1.1 101 ")


@pytest.mark.parametrize("kind", [Haproxy, Envoy], ids=lambda kind: kind.__name__)
def test_a_broker_that_says_it_is_not_ready_gets_nobody_new_and_keeps_whom_it_has_until_it_drains(
    kind: type[Proxy], site: Site, certificate: Path, tmp_path: Path
) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(rewritten(site.config.read_text(), {"[drain]\n": "[drain]\ndelay_seconds = 600.0\n"}))
    says = BY_PROXY_PROTOCOL if kind is Haproxy else BY_HEADER
    faster = {Haproxy: {" inter 2s ": " inter 100ms "}, Envoy: {" interval: 2s": " interval: 0.1s"}}[kind]
    with (
        behind(site._replace(config=config), says) as found,
        proxied(kind, found.upstream, certificate, faster) as proxy,
        closing(proxy.open()) as client,
    ):
        found.broker.signal(signal.SIGTERM)
        until(lambda: proxy.status(request(offer="public.news")) == 503, proxy.logs)
        client.sendall(frame(TEXT, b"still here"))
        assert read_frame(client) == (TEXT, b"still here")
        found.broker.signal(signal.SIGTERM)
        opcode, payload = read_frame(client)
        assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, 1001)


def test_without_its_own_error_log_nginx_would_write_a_token_from_a_query(certificate: Path) -> None:
    """The control case of the test that no log holds one."""
    nobody = Upstream(1, 1)
    upgrade = request("/ws?token=of-somebody", offer="public.news")
    with proxied(Nginx, nobody, certificate, {"error_log /dev/null emerg;": ""}) as proxy:
        assert proxy.status(upgrade) == 502
        until(lambda: "token=of-somebody" in proxy.logs(), proxy.logs)


def test_haproxy_can_say_in_a_header_whose_connection_it_is(by_header: Behind, certificate: Path) -> None:
    changes = {
        " send-proxy-v2 check ": " check ",
        "http-request del-header X-Forwarded-For": "http-request set-header X-Forwarded-For %[src]",
    }
    with (
        proxied(Haproxy, by_header.upstream, certificate, changes) as proxy,
        closing(proxy.open("public.news", "X-Forwarded-For: 203.0.113.9", source="127.0.0.5")),
    ):
        assert [session["address"] for session in by_header.sessions()] == ["127.0.0.5"]
