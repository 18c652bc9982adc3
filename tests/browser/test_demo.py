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


def switch_to_json(page: Page) -> None:
    page.get_by_role("radio", name="broker.json.v1").check()
    expect(page.locator("#protocol")).to_have_text("broker.json.v1")
    log_line(page, "hello, session").wait_for()


def test_a_message_travels_from_one_tab_to_the_other(demo: OpenTab) -> None:
    here, there = demo(), demo()
    publish(here, "from here to there")
    for page in (here, there):
        expect(log_line(page, "from here to there").locator("b")).to_have_text("demo")
        expect(page.locator("#protocol")).to_have_text("demo")


def test_a_raw_tab_and_a_json_tab_hear_each_other(demo: OpenTab) -> None:
    raw, json = demo(), demo()
    switch_to_json(json)
    json.locator("#kind").select_option("JSON")
    publish(json, '{"n": [1, null]}')
    log_line(raw, '"n"').wait_for()
    log_line(json, "(from this tab)").wait_for()
    publish(raw, "plain words")
    log_line(json, "plain words").wait_for()


def test_a_binary_payload_is_shown_as_bytes(demo: OpenTab) -> None:
    raw, json = demo(), demo()
    switch_to_json(json)
    raw.locator("#kind").select_option("base64")
    publish(raw, "\xe9")
    for page in (raw, json):
        log_line(page, "binary, 2 bytes: c3 a9").wait_for()


def test_json_subscribes_and_unsubscribes_on_the_open_connection(demo: OpenTab) -> None:
    here, there = demo(), demo()
    for page in (here, there):
        switch_to_json(page)
    subscribe(here, "room:42")
    log_line(here, '"subscribed"').wait_for()
    there.locator("#target").fill("room:42")
    publish(there, "into the room")
    expect(log_line(here, "into the room").locator("b")).to_have_text("room:42")
    here.get_by_role("button", name="Unsubscribe from room:42").click()
    log_line(here, '"unsubscribed"').wait_for()
    publish(there, "nobody hears")
    there.locator("#target").fill("demo")
    publish(there, "all hear")
    log_line(here, "all hear").wait_for()
    expect(log_line(here, "nobody hears")).to_have_count(0)
    expect(log_line(here, "hello, session")).to_have_count(1)


def test_a_channel_refused_in_json_is_shown_and_the_others_go_on(demo: OpenTab) -> None:
    page = demo()
    switch_to_json(page)
    subscribe(page, "room.42|frob")
    expect(log_line(page, "refused: ")).to_have_count(1)
    publish(page, "still here")
    log_line(page, "still here").wait_for()


def test_raw_publishes_to_the_one_channel_that_is_marked(demo: OpenTab) -> None:
    here, there = demo(), demo()
    subscribe(here, "room:42|both")
    expect(here.locator("#used")).to_contain_text('["demo", "room%3A42|both"]')
    expect(here.locator("#target")).to_have_value("room:42")
    switch_to_json(there)
    subscribe(there, "room:42")
    log_line(there, '"subscribed"').wait_for()
    expect(here.get_by_role("button", name="Publish")).to_be_enabled()
    publish(here, "to the room")
    expect(log_line(there, "to the room").locator("b")).to_have_text("room:42")


def test_a_refusal_is_shown_with_its_code_reason_and_meaning_and_not_tried_again(demo: OpenTab) -> None:
    page = demo()
    subscribe(page, "room.42|frob")
    refusal = log_line(page, "closed 4500")
    expect(refusal).to_contain_text("code=")
    expect(refusal).to_contain_text("45xx, never")
    expect(page.locator("#state")).to_have_text("closed 4500")
    expect(page.locator("#connect")).to_have_text("Connect")
    page.get_by_role("button", name="Unsubscribe from room.42|frob").click()
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#state")).to_have_text("connected")


def test_disconnect_shows_the_close_and_stays_away(demo: OpenTab) -> None:
    page = demo()
    page.get_by_role("button", name="Disconnect").click()
    log_line(page, "closed 1000").wait_for()
    expect(page.locator("#state")).to_have_text("closed 1000")
    expect(page.get_by_role("button", name="Publish")).to_be_disabled()


def test_markup_in_a_message_stays_text(demo: OpenTab) -> None:
    here, there = demo(), demo()
    publish(here, "<img src=x onerror=alert(1)><b>bold</b>")
    log_line(there, "<img src=x onerror=alert(1)><b>bold</b>").wait_for()
    assert there.locator("#log img").count() == 0


def test_a_flood_leaves_the_page_with_a_bounded_log(broker: Broker, demo: OpenTab, plain: Page) -> None:
    page = demo()
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


def test_the_three_lines_work_when_pasted_into_a_page(broker: Broker, demo: OpenTab, new_page: OpenTab) -> None:
    page = demo()
    raw_lines = page.locator("#lines").inner_text()
    switch_to_json(page)
    for lines, heard in ((raw_lines, "hello"), (page.locator("#lines").inner_text(), "type: hello")):
        assert len(lines.splitlines()) == 3
        pasted = new_page()
        with pasted.expect_console_message() as first:
            show_page(pasted, f"{broker.url}pasted.html", f"<!doctype html><script>{lines}</script>")
        assert heard in first.value.text


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
    assert [url for url in asked if not url.startswith("data:")] == [broker.url]
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
            page.locator("#state", has_text="connected").wait_for()
        for number, page in enumerate(tabs):
            publish(page, f"from tab {number}")
        for page in tabs:
            for number in range(5):
                log_line(page, f"from tab {number}").wait_for()
        assert broker.stop() == 0


def test_the_page_says_that_the_server_went_and_comes_back_with_it(new_page: OpenTab) -> None:
    page = new_page()
    with running_broker() as first:
        page.goto(first.url)
        page.locator("#state", has_text="connected").wait_for()
        assert first.stop() == 0
        expect(log_line(page, "closed 1001")).to_contain_text("the server goes away")
        expect(page.locator("#state")).to_contain_text("comes back in")
    with running_broker(first.listen):
        expect(page.locator("#state")).to_have_text("connected", timeout=30_000)
        publish(page, "here again")
        log_line(page, "here again").wait_for()
