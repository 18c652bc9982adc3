"""The demo page: what a newcomer sees in the first minute."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import Broker, running_broker, show_page

OpenTab = Callable[[], Page]

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop


def log_line(page: Page, text: str) -> Locator:
    return page.locator("#log li", has_text=text)


def publish(page: Page, text: str) -> None:
    page.locator("#payload").fill(text)
    page.get_by_role("button", name="Publish").click()


def subscribe(page: Page, channel: str) -> None:
    page.locator("#name").fill(channel)
    page.get_by_role("button", name="Subscribe", exact=True).click()


def test_a_message_travels_from_one_tab_to_the_other(demo: OpenTab) -> None:
    here, there = demo(), demo()
    for page in (here, there):
        log_line(page, "subscribed").wait_for()
    publish(here, "from here to there")
    for page in (here, there):
        expect(log_line(page, "from here to there").locator("b")).to_have_text("demo")
    log_line(here, "(from this tab)").wait_for()
    expect(here.locator("#hint")).to_contain_text("heard it")


def test_json_and_binary_payloads_are_shown_as_what_they_are(demo: OpenTab) -> None:
    page = demo()
    page.locator("#kind").select_option("JSON")
    publish(page, '{"n": [1, null]}')
    log_line(page, '{"n":[1,null]}').wait_for()
    page.locator("#kind").select_option("base64")
    publish(page, "\xe9")
    log_line(page, "binary, 2 bytes: c3 a9").wait_for()


def test_channels_come_and_go_on_the_open_connection(demo: OpenTab) -> None:
    here, there = demo(), demo()
    subscribe(here, "room:42")
    log_line(here, "subscribed").locator("b", has_text="room:42").wait_for()
    there.locator("#target").fill("room:42")
    publish(there, "into the room")
    expect(log_line(here, "into the room").locator("b")).to_have_text("room:42")
    here.get_by_role("button", name="Unsubscribe from room:42").click()
    # A command of the same connection that is answered: the one before it has been carried out.
    publish(here, "after it")
    log_line(here, "after it").wait_for()
    publish(there, "nobody hears")
    there.locator("#target").fill("demo")
    publish(there, "all hear")
    log_line(here, "all hear").wait_for()
    expect(log_line(here, "nobody hears")).to_have_count(0)
    expect(log_line(here, "connected, session")).to_have_count(1)


def test_a_channel_that_is_refused_is_shown_with_the_reason_and_the_others_go_on(demo: OpenTab) -> None:
    page = demo()
    subscribe(page, "$system")
    log_line(page, "refused: bad_channel").wait_for()
    publish(page, "still here")
    log_line(page, "still here").wait_for()


def test_disconnect_stays_away_until_connect_is_pressed(demo: OpenTab) -> None:
    page = demo()
    page.get_by_role("button", name="Disconnect").click()
    expect(page.locator("#state")).to_have_text("closed 1000")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#state")).to_have_text("connected")
    publish(page, "back again")
    log_line(page, "back again").wait_for()


def test_markup_in_a_message_stays_text(demo: OpenTab) -> None:
    here, there = demo(), demo()
    log_line(there, "subscribed").wait_for()
    publish(here, "<img src=x onerror=alert(1)><b>bold</b>")
    log_line(there, "<img src=x onerror=alert(1)><b>bold</b>").wait_for()
    assert there.locator("#log img").count() == 0


def test_a_flood_leaves_the_page_with_a_bounded_log(broker: Broker, demo: OpenTab, plain: Page) -> None:
    page = demo()
    log_line(page, "subscribed").wait_for()
    plain.evaluate(
        """url => new Promise(resolve => {
          const socket = new WebSocket(url, ["demo"]);
          let heard = 0;
          socket.onopen = () => { for (let i = 1; i <= 700; i++) socket.send(`flood ${i}.`); };
          socket.onmessage = () => { if (++heard === 700) resolve(); };
        })""",
        broker.ws_url,
    )
    log_line(page, "flood 700.").wait_for()
    assert page.locator("#log li").count() == 500


@pytest.mark.parametrize(
    ("shown", "module", "heard"),
    [("#raw", "", "hello"), ("#small", " type=module", "type: message, channel: demo")],
    ids=["WebSocket", "client"],
)
def test_the_three_lines_work_when_pasted_into_a_page_of_another_origin(
    demo: OpenTab, new_page: OpenTab, shown: str, module: str, heard: str
) -> None:
    lines = demo().locator(shown).inner_text()
    assert len(lines.splitlines()) == 3
    pasted = new_page()
    with pasted.expect_console_message(lambda message: heard in message.text):
        show_page(pasted, "http://localhost:3000/", f"<!doctype html><script{module}>{lines}</script>")


def test_the_demo_asks_nobody_else_for_anything(broker: Broker, new_page: OpenTab) -> None:
    page = new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    response = page.goto(broker.url)
    assert response is not None
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page.locator("#state", has_text="connected").wait_for()
    assert [url for url in asked if not url.startswith("data:")] == [broker.url, f"{broker.url}client.js"]
    assert complaints == []


def test_the_demo_fits_a_phone(demo: OpenTab) -> None:
    page = demo()
    page.set_viewport_size({"width": 340, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == 340


def test_with_several_workers_five_tabs_are_one_room(new_page: OpenTab) -> None:
    with running_broker("127.0.0.1:0", "--workers", "4") as broker:
        tabs = [new_page() for _ in range(5)]
        for page in tabs:
            page.goto(broker.url)
            log_line(page, "subscribed").wait_for()
        for number, page in enumerate(tabs):
            publish(page, f"from tab {number}")
        for page in tabs:
            for number in range(5):
                log_line(page, f"from tab {number}").wait_for()
        assert broker.stop() == 0


def test_the_page_says_that_the_server_went_comes_back_with_it_and_tells_the_gap(new_page: OpenTab) -> None:
    page = new_page()
    with running_broker() as first:
        page.goto(first.url)
        log_line(page, "subscribed").wait_for()
        assert first.stop() == 0
        log_line(page, "closed 1001").wait_for()
        expect(page.locator("#state")).to_contain_text("comes back in")
        publish(page, "published while away")
        expect(page.locator("#hint")).to_have_text("goes out when connected")
    with running_broker(first.listen):
        expect(page.locator("#state")).to_have_text("connected", timeout=30_000)
        log_line(page, "gap: an unknown number missed").wait_for()
        expect(page.locator("#hint")).to_contain_text("published")
