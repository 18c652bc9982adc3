"""Pages in Chromium behind the shipped nginx: a drain reaches each of them as what it is, and they come back."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.process.books import check_i7_log
from tests.process.command import Served, serving
from tests.process.supervised import workers
from tests.proxy.certificate import certificate_in
from tests.proxy.proxies import Nginx, Proxy, Upstream, proxied

from .conftest import PATIENCE_MS, show_page
from .test_client import START, await_told, publish, settle

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop

SOCKETS_OF_A_PAGE = 5
PAGES = 4
# Raw ones and JSON ones in turn; what each of them is told at its end is in window.ended.
OPEN = """([url, count]) => {
  Object.assign(window, {ended: [], opened: 0});
  for (let number = 0; number < count; number++) {
    const socket = new WebSocket(url, number % 2 ? ["broker.json.v1", "news"] : ["news"]);
    socket.onopen = () => { opened++; };
    socket.onclose = ({code, reason, wasClean}) => { ended.push({code, reason, wasClean}); };
  }
}"""


@pytest.fixture
def secure_page(chromium: Browser) -> Iterator[Callable[[], Page]]:
    """Tabs that take the test's own certificate."""
    context = chromium.new_context(ignore_https_errors=True)
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page
    context.close()


@contextmanager
def behind_nginx(tmp_path: Path, *flags: str) -> Iterator[tuple[Served, Proxy, list[str]]]:
    """The broker, nginx before it, and the flags with which the next broker takes over."""
    config = tmp_path / "broker.toml"
    config.write_text(
        f'[server]\nstate_directory = "{tmp_path}"\ntrusted_proxies = ["127.0.0.1"]\n'
        'client_address = "x-forwarded-for"\n[drain]\nwindow_seconds = 0.5\nreconnect_seconds = 0.5\n'
    )
    arguments = ["--config", str(config), "--workers", "2", "--verbose", "--history", "1000", *flags]
    with (
        certificate_in() as certificate,
        serving(*arguments) as broker,
        proxied(Nginx, Upstream(broker.port, 1), certificate) as nginx,
    ):
        assert len(workers(broker)) == 2
        yield broker, nginx, arguments


def ends(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("ended")
    return found


def test_every_page_behind_nginx_reads_1012_and_when_to_come_back_and_none_reads_1006(
    secure_page: Callable[[], Page], tmp_path: Path
) -> None:
    with behind_nginx(tmp_path) as (broker, nginx, _):
        origin = f"https://localhost:{nginx.port}"
        pages = [show_page(secure_page(), f"{origin}/plain.html") for _ in range(PAGES)]
        for page in pages:
            page.evaluate(OPEN, [f"wss://localhost:{nginx.port}/ws", SOCKETS_OF_A_PAGE])
        for page in pages:
            page.wait_for_function("count => opened === count", arg=SOCKETS_OF_A_PAGE)
        broker.signal(signal.SIGTERM)
        for page in pages:
            page.wait_for_function("count => ended.length === count", arg=SOCKETS_OF_A_PAGE)
        told = [end for page in pages for end in ends(page)]
        assert {end["code"] for end in told} == {1012}
        assert all(end["wasClean"] for end in told)
        assert all(end["reason"].startswith("code=service_restart;in_ms=") for end in told)
        assert broker.status() == 0
        check_i7_log(broker)


def test_pages_behind_nginx_come_back_to_the_next_broker_and_have_missed_nothing(
    secure_page: Callable[[], Page], tmp_path: Path
) -> None:
    with behind_nginx(tmp_path) as (broker, nginx, arguments):
        origin = f"https://localhost:{nginx.port}"
        pages = [show_page(secure_page(), f"{origin}/plain.html") for _ in range(2)]
        for page in pages:
            page.evaluate(START, [f"{origin}/client.js", "/ws", {"channels": ["news"]}])
            await_told(page, "subscribed")
        publish(broker, range(40))
        assert broker.stop() == 0
        with serving(*arguments, listen=f"127.0.0.1:{broker.port}") as second:
            publish(second, range(40, 80))
            settle(pages)
            assert second.stop() == 0
