"""The browser's own WebSocket against the broker: what a page can rely on without any library."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from .conftest import Broker, running_broker, show_page

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop

# The whole life of one socket, as its events tell it to the page.
LIFE = """([url, protocols]) => new Promise(resolve => {
  const socket = new WebSocket(url, protocols), life = {opened: false, heard: []};
  socket.onopen = () => { life.opened = true; life.protocol = socket.protocol; };
  socket.onmessage = event => life.heard.push(event.data);
  socket.onclose = ({code, reason, wasClean}) => resolve({...life, code, reason, wasClean});
})"""

# Opens, sends what is given, and resolves with the first thing heard.
FIRST_HEARD = """([url, protocols, ...sent]) => new Promise((resolve, reject) => {
  const socket = new WebSocket(url, protocols);
  socket.onopen = () => { for (const data of sent) socket.send(data); };
  socket.onmessage = event => { resolve(event.data); socket.onclose = null; socket.close(); };
  socket.onclose = event => reject(new Error(`closed ${event.code} ${event.reason}`));
})"""


def test_the_channels_are_the_subprotocols_and_the_first_is_answered(broker: Broker, plain: Page) -> None:
    seen = plain.evaluate(
        """url => new Promise((resolve, reject) => {
          const socket = new WebSocket(url, ["news", "room.42"]);
          socket.onopen = () => resolve([socket.protocol, socket.extensions]);
          socket.onerror = reject;
        })""",
        broker.ws_url,
    )
    assert seen[0] == "news"


def test_an_offered_format_is_answered_before_any_channel(broker: Broker, plain: Page) -> None:
    hello = plain.evaluate(
        """url => new Promise((resolve, reject) => {
          const socket = new WebSocket(url, ["news", "broker.json.v1", "room%3A42"]);
          socket.onmessage = event => resolve([socket.protocol, JSON.parse(event.data)]);
          socket.onclose = reject;
        })""",
        broker.ws_url,
    )
    assert hello[0] == "broker.json.v1"
    assert hello[1]["type"] == "hello"
    assert [entry["channel"] for entry in hello[1]["channels"]] == ["news", "room:42"]
    assert hello[1]["session"]


def test_the_query_opens_the_same_door_for_pages_that_cannot_offer(broker: Broker, plain: Page) -> None:
    hello = plain.evaluate(FIRST_HEARD, [f"{broker.ws_url}?format=json&channel=room%3A42", []])
    assert '"hello"' in hello
    assert "room:42" in hello


def test_what_a_raw_page_sends_comes_back_to_it_as_it_was(broker: Broker, plain: Page) -> None:
    text = "grüße, 世界 😀 \0"
    assert plain.evaluate(FIRST_HEARD, [broker.ws_url, ["echo.text"], text]) == text


def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_is_1009(broker: Broker, plain: Page) -> None:
    limit = "x" * 65536
    assert plain.evaluate(FIRST_HEARD, [broker.ws_url, ["echo.limit"], limit]) == limit
    with pytest.raises(Exception, match="closed 1009"):
        plain.evaluate(FIRST_HEARD, [broker.ws_url, ["echo.limit"], limit + "x"])


@pytest.mark.parametrize("kind", ["blob", "arraybuffer"])
def test_binary_stays_binary_in_the_kind_the_page_asked_for(broker: Broker, plain: Page, kind: str) -> None:
    seen = plain.evaluate(
        """([url, kind]) => new Promise((resolve, reject) => {
          const socket = new WebSocket(url, ["bytes"]);
          socket.binaryType = kind;
          socket.onopen = () => socket.send(Uint8Array.of(0, 255, 128, 10));
          socket.onmessage = async ({data}) => {
            const buffer = data instanceof Blob ? await data.arrayBuffer() : data;
            resolve([data.constructor.name.toLowerCase(), [...new Uint8Array(buffer)]]);
          };
          socket.onclose = reject;
        })""",
        [broker.ws_url, kind],
    )
    assert seen == [kind, [0, 255, 128, 10]]


def test_a_text_heartbeat_is_answered_and_not_published(broker: Broker, plain: Page) -> None:
    seen = plain.evaluate(
        """url => new Promise((resolve, reject) => {
          const listener = new WebSocket(url, ["beat|recv"]), speaker = new WebSocket(url, ["beat"]), heard = [];
          speaker.onmessage = event => {
            heard.push(event.data);
            if (event.data === "pong") speaker.send("after the beat");
          };
          listener.onmessage = event => resolve([event.data, heard[0]]);
          listener.onclose = speaker.onclose = reject;
          const opened = socket => new Promise(done => { socket.onopen = done; });
          Promise.all([opened(listener), opened(speaker)]).then(() => speaker.send("ping"));
        })""",
        broker.ws_url,
    )
    assert seen == ["after the beat", "pong"]


@pytest.mark.parametrize(
    "offer",
    [["broker.json.v9"], ["news|frob"], ["news", "n%65ws"], ["$system"], ["news", "%zz"], ["x" * 256]],
    ids=["unknown format alone", "unknown option", "duplicate after decoding", "reserved", "bad escape", "long name"],
)
def test_a_bad_offer_is_a_close_code_that_the_page_can_read(broker: Broker, plain: Page, offer: list[str]) -> None:
    life = plain.evaluate(LIFE, [broker.ws_url, offer])
    assert life["opened"]
    assert life["protocol"] in offer
    assert (life["code"], life["wasClean"], life["heard"]) == (4500, True, [])
    assert life["reason"].startswith("code=")
    assert len(life["reason"].encode()) <= 123


def test_a_raw_page_with_several_channels_is_told_that_it_must_mark_one(broker: Broker, plain: Page) -> None:
    with pytest.raises(Exception, match=r"closed 45\d\d code="):
        plain.evaluate(FIRST_HEARD, [broker.ws_url, ["news", "room.42"], "to whom?"])


def test_a_page_of_another_site_gets_no_connection(broker: Broker, new_page: Callable[[], Page]) -> None:
    page = show_page(new_page(), "http://foreign.localhost/")
    with page.expect_console_message(lambda message: "WebSocket" in message.text) as complaint:
        life = page.evaluate(LIFE, [broker.ws_url, ["news"]])
    assert (life["opened"], life["code"], life["reason"]) == (False, 1006, "")
    # What the script may not know, the console says: it was the broker that refused, not the browser.
    assert "403" in complaint.value.text


def test_a_page_learns_that_the_server_is_going_away(new_page: Callable[[], Page]) -> None:
    with running_broker() as broker:
        page = show_page(new_page(), f"{broker.url}plain.html")
        page.evaluate(
            """url => new Promise(resolve => {
              const socket = new WebSocket(url, ["news"]);
              window.goodbye = new Promise(done => { socket.onclose = event => done([event.code, event.wasClean]); });
              socket.onopen = resolve;
            })""",
            broker.ws_url,
        )
        assert broker.stop() == 0
        assert page.evaluate("() => window.goodbye") == [1001, True]
