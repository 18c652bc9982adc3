"""config/examples/ in pages in Chromium: with tokens of `ws-broker token`, and with a Django session by the hook."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import STOP_SECONDS, show_page
from tests.process.command import ROOT, environment, serving
from tests.process.examples import ADDRESSES, SITE, Example, example, prepared, shell

OpenTab = Callable[[], Page]

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop

NOT_AUTHENTICATED, NOT_PERMITTED, CANNOT_PUBLISH = 4501, 4503, 4505
# As the comments of the examples show it: what the page hears in window.heard, its close code in window.ending.
LISTEN = """([url, offer]) => new Promise(done => {
  window.heard = []; window.ending = null;
  window.socket = new WebSocket(url, offer);
  socket.onmessage = ({data}) => heard.push(JSON.parse(data));
  socket.onopen = done;
  socket.onclose = ({code}) => { ending = code; done(); };
})"""


def listen(page: Page, broker: str, *offer: str, token: str | None = None) -> Page:
    page.evaluate(LISTEN, [broker, [*offer, *([] if token is None else [f"bearer.{token}"])]])
    return page


def heard(page: Page, count: int) -> list[Any]:
    page.wait_for_function("count => heard.length >= count", arg=count)
    found: list[Any] = page.evaluate("heard")
    return found


def events(page: Page, kind: str, count: int = 1) -> list[dict[str, Any]]:
    page.wait_for_function("([kind, n]) => heard.filter(e => e.type === kind).length >= n", arg=[kind, count])
    found: list[dict[str, Any]] = page.evaluate("kind => heard.filter(e => e.type === kind)", kind)
    return found


def closed(page: Page) -> int:
    page.wait_for_function("ending !== null")
    code: int = page.evaluate("ending")
    return code


def tab(new_page: OpenTab, url: str = f"{SITE}/") -> Page:
    return show_page(new_page(), url)


@contextmanager
def served(name: str, folder: Path) -> Iterator[Example]:
    with example(name, folder / name) as running:
        yield running


def test_visitors_hear_the_feed_and_cannot_speak_in_it(new_page: OpenTab, tmp_path: Path) -> None:
    with served("public-feed", tmp_path) as feed:
        page = listen(tab(new_page), feed.broker.url, "feed.scores")
        feed.curl("'3:1'", "7")
        assert heard(page, 1) == [7]
        page.evaluate("socket.send('8')")
        assert closed(page) == CANNOT_PUBLISH
        foreign = listen(tab(new_page, "https://www.example.org/"), feed.broker.url, "feed.scores")
        assert (closed(foreign), foreign.evaluate("heard")) == (1006, [])


def test_two_people_chat_and_a_third_without_a_token_hears_nothing(new_page: OpenTab, tmp_path: Path) -> None:
    with served("chat", tmp_path) as chat:
        offer = ("broker.json.v1", "room.42|last.20")
        ann = listen(tab(new_page), chat.broker.url, *offer, token=chat.token("ann"))
        bob = listen(tab(new_page), chat.broker.url, *offer, token=chat.token("bob"))
        nobody = listen(tab(new_page), chat.broker.url, *offer)
        assert [events(page, "hello")[0]["user"] for page in (ann, bob)] == ["ann", "bob"]
        ann.evaluate("""socket.send('{"type": "publish", "channel": "room.42", "data": {"text": "hello"}}')""")
        (said,) = events(bob, "message")
        assert (said["data"], said["from"]["user"], said["from"]["info"]) == ({"text": "hello"}, "ann", {"name": "Ann"})
        assert closed(nobody) == NOT_AUTHENTICATED
        chat.curl("closing at ten")
        assert events(ann, "message", 2)[1]["data"] == {"text": "closing at ten"}


def test_a_user_hears_his_own_channel_and_not_that_of_another(new_page: OpenTab, tmp_path: Path) -> None:
    with served("private-channels", tmp_path) as private:
        ann = listen(tab(new_page), private.broker.url, "user.ann", token=private.token("ann"))
        bob = listen(tab(new_page), private.broker.url, "user.ann", token=private.token("bob"))
        assert closed(bob) == NOT_PERMITTED
        private.curl("user.ann")
        assert heard(ann, 1) == [{"unread": 3}]
        assert bob.evaluate("heard") == []


def test_a_dashboard_begins_with_the_latest_value(new_page: OpenTab, tmp_path: Path) -> None:
    with served("dashboards", tmp_path) as dashboards:
        token = dashboards.token("ann")
        dashboards.curl('{"sold": 7}')
        page = listen(tab(new_page), dashboards.broker.url, "dashboard.sales.today|last.1", token=token)
        assert heard(page, 1) == [{"sold": 7}]
        dashboards.curl("v1/publish")
        assert heard(page, 2)[1] == {"sold": 8}
        other = listen(tab(new_page), dashboards.broker.url, "dashboard.wages.today", token=token)
        assert closed(other) == NOT_PERMITTED


@contextmanager
def django_site(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.browser.django_site", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def log_in(page: Page, site: str, name: str) -> None:
    page.goto(f"{site}/login")
    page.fill("[name=username]", name)
    page.fill("[name=password]", f"{name}'s password")
    page.click("button")
    page.locator("#who", has_text=name).wait_for()


def with_hook(text: str, site: str) -> str:
    """The example for a site with sessions, as its comment says: the table of the hook instead of that of the key."""
    text, removed = re.subn(r"^\[auth\.keys\.site\]\n(?:[^\[\n]+\n)+", "", text, flags=re.MULTILINE)
    hook: str
    (hook,) = re.findall(r"^# (\[hook\]\n(?:# \w+ = .*\n)+)", text, re.MULTILINE)
    assert removed == 1
    shown = "http://127.0.0.1:8080"
    assert shown in hook
    return "\n".join((text, hook.replace("\n# ", "\n").replace(shown, site)))


def test_who_is_logged_in_at_a_django_site_hears_what_is_for_him(new_page: OpenTab, tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    file = prepared("private-channels", folder)
    shell("openssl rand -hex 32 > hook-secret && chmod 600 hook-secret", folder)
    with django_site(folder) as site:
        file.write_text(with_hook(file.read_text(), site))
        extra = ADDRESSES | {"WSBROKER_SERVER_ORIGINS": site}
        with serving("--config", str(file), "--verbose", dev=False, extra=extra) as broker:
            private = Example("private-channels", folder, broker)
            page = new_page()
            page.goto(site)
            assert closed(listen(page, broker.url, "user.1")) == NOT_AUTHENTICATED
            log_in(page, site, "ann")
            listen(page, broker.url, "broker.json.v1", "user.1", "user.2")
            (hello,) = events(page, "hello")
            assert hello["user"] == "1"
            assert hello["channels"][1]["error"]["code"] == "not_permitted"
            private.curl("user.ann", "user.2")
            private.curl("user.ann", "user.1")
            assert [(one["channel"], one["data"]) for one in events(page, "message")] == [("user.1", {"unread": 3})]
            # Another site's page in the same browser: same cookies, another origin.
            foreign = listen(show_page(new_page(), "http://127.0.0.1:1/"), broker.url, "user.1")
            assert closed(foreign) == 1006
            (session,) = [one["value"] for one in page.context.cookies() if one["name"] == "sessionid"]
            page.evaluate("socket.close()")
            page.click("button")
            page.locator("#who", has_text=re.compile("^$")).wait_for(state="attached")
            assert closed(listen(page, broker.url, "user.1")) == NOT_AUTHENTICATED
            assert broker.stop() == 0
            assert session not in broker.errors
            assert "set-cookie" not in broker.errors.lower()
