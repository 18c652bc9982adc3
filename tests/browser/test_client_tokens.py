"""client.js with real tokens: keys by `ws-broker new-key`, a broker that checks, a site that makes tokens."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from playwright.sync_api import Page

from tests.process.command import PATIENCE_SECONDS, Served
from tests.process.guarded import CHANNELS, Site, guarded, new_site

from .conftest import show_page

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop

ORIGIN = "http://app.test:3000"
OpenTab = Callable[[], Page]
HOLD = "[limits]\nrefusal_hold_min_seconds = 0\nrefusal_hold_max_seconds = 0\n"
# Tokens are warned of an hour before their end, which is as soon as they are used here; or never.
WARNED = "[auth]\nleeway_seconds = 0\nexpiry_spread_seconds = 0\nexpiring_seconds = 3600\n"
UNWARNED = WARNED.replace("3600", "0")

# What the client tells in window.told; Math.random is 0, so that a refresh comes at once and a return soon.
START = """async ([script, url, channels]) => {
  Math.random = () => 0;
  const { connect } = await import(script);
  Object.assign(window, {heard: [], told: [], states: []});
  const note = event => told.push(event);
  window.broker = connect(url, {
    channels, token: () => window.mint(),
    onmessage: event => heard.push([event.channel, event.data ?? event.text]),
    onhello: note, onsubscribed: note, onunsubscribed: note, ongap: note, onrecovered: note, onerror: note,
    onstate: event => { states.push(event); },
  });
}"""


class Tokens:
    """The site's side of the token function: makes them one after the other, the last one again and again."""

    def __init__(self, site: Site, *wanted: dict[str, Any] | str | None) -> None:
        self._key = (site.folder / "keys/site.private.pem").read_text()
        self._wanted = wanted
        self.made = 0

    def mint(self) -> str:
        wanted = self._wanted[min(self.made, len(self._wanted) - 1)]
        self.made += 1
        if wanted is None:
            raise ConnectionError("the site is away")
        if isinstance(wanted, str):
            return wanted
        seconds = wanted.get("seconds", 600)
        claims = {name: value for name, value in wanted.items() if name != "seconds"}
        return jwt.encode({"sub": "ann", "exp": int(time.time()) + seconds, **claims}, self._key, "ES256")


class World:
    def __init__(self, site: Site, broker: Served, key: str) -> None:
        self.site = site
        self.broker = broker
        self._key = key

    def open(self, page: Page, tokens: Tokens, *channels: str) -> Page:
        page.expose_function("mint", tokens.mint)
        show_page(page, f"{ORIGIN}/page.html")
        script = f"http://{self.broker.host}:{self.broker.port}/client.js"
        page.evaluate(START, [script, self.broker.url, list(channels)])
        return page

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.broker.api_url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def publish(self, channel: str, text: str) -> None:
        self.ask("/v1/publish", {"channel": channel, "text": text})


def serving_site(factory: pytest.TempPathFactory, auth: str) -> Iterator[World]:
    site = new_site(factory.mktemp("site"), auth + HOLD + CHANNELS)
    key = site.api_key("backend", "--scope", "publish", "--scope", "admin").read_text().strip()
    with guarded(site, "--workers", "2", "--origin", ORIGIN) as broker:
        yield World(site, broker, key)


@pytest.fixture(scope="module")
def warned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from serving_site(tmp_path_factory, WARNED)


@pytest.fixture(scope="module")
def unwarned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    yield from serving_site(tmp_path_factory, UNWARNED)


def await_subscribed(page: Page, channel: str) -> None:
    page.wait_for_function(
        """name => told.some(e => (e.type === "hello" || e.type === "subscribed")
          && e.channels.some(c => c.channel === name && !c.error))""",
        arg=channel,
    )


def await_state(page: Page, state: str) -> dict[str, Any]:
    page.wait_for_function("state => states.at(-1)?.state === state", arg=state)
    last: dict[str, Any] = page.evaluate("states.at(-1)")
    return last


def test_a_page_is_who_its_token_says_and_hears_what_it_was_given(unwarned: World, new_page: OpenTab) -> None:
    tokens = Tokens(unwarned.site, {"subs": ["user.ann"], "subscribe": ["room.*"]})
    page = unwarned.open(new_page(), tokens, "room.1", "user.bob")
    await_subscribed(page, "room.1")
    await_subscribed(page, "user.ann")
    page.wait_for_function("told.some(e => e.type === 'error')")
    assert page.evaluate("told.find(e => e.type === 'hello').user") == "ann"
    assert page.evaluate("told.filter(e => e.type === 'error').map(e => [e.channel, e.code])") == [
        ["user.bob", "not_permitted"]
    ]
    for channel in ("room.1", "user.ann"):
        unwarned.publish(channel, "hello")
    page.wait_for_function("heard.length === 2")
    assert sorted(page.evaluate("heard")) == [["room.1", "hello"], ["user.ann", "hello"]]
    assert tokens.made == 1


def test_a_page_hears_a_channel_that_the_back_end_gives_it_until_it_is_taken_away(
    unwarned: World, new_page: OpenTab
) -> None:
    page = unwarned.open(new_page(), Tokens(unwarned.site, {"sub": "eve"}))
    await_state(page, "open")
    page.wait_for_function("told.some(e => e.type === 'hello')")
    assert unwarned.ask("/v1/users/eve/subscribe", {"channels": ["room.vip"]}) == {"sessions": 1}
    await_subscribed(page, "room.vip")
    unwarned.publish("room.vip", "welcome")
    page.wait_for_function("heard.length === 1")
    assert page.evaluate("heard") == [["room.vip", "welcome"]]
    assert unwarned.ask("/v1/users/eve/unsubscribe", {"channels": ["room.vip"]}) == {"sessions": 1}
    page.wait_for_function("told.some(e => e.type === 'unsubscribed')")


def test_a_token_about_to_expire_is_replaced_without_a_new_connection(warned: World, new_page: OpenTab) -> None:
    tokens = Tokens(warned.site, {"subscribe": ["room.*"]}, {"subscribe": ["room.*"], "subs": ["room.later"]})
    page = warned.open(new_page(), tokens, "room.1")
    await_subscribed(page, "room.1")
    await_subscribed(page, "room.later")
    warned.publish("room.1", "still here")
    page.wait_for_function("heard.length === 1")
    assert page.evaluate("states.map(e => e.state)") == ["connecting", "open"]
    assert page.evaluate("told.filter(e => e.type === 'gap' || e.type === 'error')") == []


def test_a_page_whose_token_expires_comes_back_with_another_and_misses_nothing(
    unwarned: World, new_page: OpenTab
) -> None:
    tokens = Tokens(unwarned.site, {"subscribe": ["room.*"], "seconds": 3}, {"subscribe": ["room.*"]})
    page = unwarned.open(new_page(), tokens, "room.2")
    await_subscribed(page, "room.2")
    unwarned.publish("room.2", "before")
    page.wait_for_function("told.some(e => e.type === 'recovered')")
    unwarned.publish("room.2", "after")
    page.wait_for_function("heard.length === 2")
    assert page.evaluate("heard") == [["room.2", "before"], ["room.2", "after"]]
    assert page.evaluate("states.filter(e => e.state === 'waiting').map(e => e.code)") == [4219]
    assert page.evaluate("told.filter(e => e.type === 'gap' || e.type === 'error')") == []
    assert tokens.made == 2


@pytest.mark.parametrize(
    ("wanted", "word"),
    [("rubbish", "not_authenticated"), ({"seconds": -60}, "token_expired"), ({"sub": ""}, "not_authenticated")],
    ids=["no token", "expired", "nobody"],
)
def test_a_token_that_is_refused_is_said_once_and_asked_for_once(
    unwarned: World, new_page: OpenTab, wanted: dict[str, Any] | str, word: str
) -> None:
    tokens = Tokens(unwarned.site, wanted)
    page = unwarned.open(new_page(), tokens, "room.3")
    closed = await_state(page, "closed")
    assert closed["code"] in (4219, 4501)
    page.wait_for_function("told.length > 0")
    assert page.evaluate("told.map(e => [e.type, e.code])") == [["error", word]]
    assert page.evaluate("states.map(e => e.state)") == ["connecting", "closed"]
    assert tokens.made == 1


def test_a_site_that_is_away_for_a_moment_is_asked_again(unwarned: World, new_page: OpenTab) -> None:
    tokens = Tokens(unwarned.site, None, {"subscribe": ["room.*"]})
    page = unwarned.open(new_page(), tokens, "room.4")
    await_subscribed(page, "room.4")
    assert page.evaluate("states.map(e => e.state)") == ["connecting", "waiting", "connecting", "open"]
    assert tokens.made == 2
