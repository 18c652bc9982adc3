"""Chromium and the real command, for the tests that look at the broker the way a web page does.

Owns both processes: `ws-broker serve --dev` on a free port and Debian's headless Chromium, once for this folder.
The scope is the folder and not the run, because Playwright's synchronous interface keeps an event loop running in
this thread, beside which no asyncio test could start its own.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.process.command import ROOT, environment

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Pages that a test makes up come from no address, and such a page may not speak to loopback.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
]
CONFIG = Path(__file__).with_name("broker.toml")
PACKAGES = Path(__file__).with_name("recipes")
SERVE = [sys.executable, "-m", "broker", "serve", "--dev", "--config", str(CONFIG)]
COMMAND = [*SERVE, "--api-listen", "127.0.0.1:0", "--listen"]
STOP_SECONDS = 20.0
PATIENCE_MS = 15_000


class Broker(NamedTuple):
    """A running broker: `url` is its demo page, `ws_url` what a page gives to `new WebSocket`."""

    process: subprocess.Popen[str]
    url: str

    @property
    def listen(self) -> str:
        return self.url.removeprefix("http://").rstrip("/")

    @property
    def ws_url(self) -> str:
        return f"ws://{self.listen}/ws"

    def stop(self) -> int:
        """SIGTERM, and the status it exits with."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def running_broker(listen: str = "127.0.0.1:0", *flags: str) -> Iterator[Broker]:
    """Ready when the command has named its page on standard output; a failed start shows what it said instead."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            [*COMMAND, listen, *flags], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment()
        ) as process,
    ):
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if named := re.search(r"http://[\w.:\[\]]+/(?=\s|$)", line):
                    break
            else:
                errors.seek(0)
                pytest.fail(f"serve --dev named no page and ended:\n{''.join(said)}{errors.read()}")
            yield Broker(process, named[0])
        finally:
            # A test may have stopped it already; one that hangs must not hang the run.
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


@pytest.fixture(scope="package")
def broker() -> Iterator[Broker]:
    with running_broker() as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    if not os.access(CHROMIUM, os.X_OK):
        pytest.fail(f"{CHROMIUM} is not there: install the package chromium, or name another in $CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[Callable[[], Page]]:
    """Pages of one profile, as tabs of one window; a script error in any of them fails the test."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    script_errors: list[str] = []
    context.on("weberror", lambda error: script_errors.append(str(error.error)))
    yield context.new_page
    context.close()
    assert script_errors == []


@pytest.fixture
def demo(broker: Broker, new_page: Callable[[], Page]) -> Callable[[], Page]:
    """Opens the demo page in one more tab and waits until it says that it is connected."""

    def open_tab() -> Page:
        page = new_page()
        page.goto(broker.url)
        page.locator("#state", has_text="connected").wait_for()
        return page

    return open_tab


def show_page(page: Page, url: str, html: str = "<!doctype html><title>plain</title>") -> Page:
    """Shows `html` as if it had been served at `url`: a page of that origin, without any policy."""
    page.route(url, lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(url)
    return page


@pytest.fixture
def plain(broker: Broker, new_page: Callable[[], Page]) -> Page:
    """An empty page of the broker's own origin, for tests that drive the browser's WebSocket themselves."""
    return show_page(new_page(), f"{broker.url}plain.html")


@pytest.fixture(scope="session")
def modules() -> Path:
    """node_modules as package-lock.json has them, installed once for each state of that file."""
    lock = (PACKAGES / "package-lock.json").read_bytes()
    folder = ROOT / "build/npm" / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PACKAGES / name, folder)
        # No package's own scripts: none of these needs one.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=100)
        (folder / "installed").touch()
    return folder
