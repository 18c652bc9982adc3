"""`make docs-screenshots`: takes the pictures of docs/images/ anew, from a real broker in a real Chromium.

Two tabs of the demo page talk; their pictures are laid side by side by the browser itself. Chromium comes from the
system, as in the tests. Who runs this looks at the pictures before committing them.
"""

import base64
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.conftest import CHROMIUM, CHROMIUM_FLAGS, running_broker

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
TAB = {"width": 560, "height": 790}
GAP = 24


def talk(browser: Browser, url: str) -> tuple[bytes, bytes]:
    """Pictures of two tabs between which some messages went."""
    context = browser.new_context(viewport={"width": TAB["width"], "height": TAB["height"]}, color_scheme="light")
    left, right = context.new_page(), context.new_page()
    for page in (left, right):
        page.goto(url)
        expect(page.locator("#log li", has_text="subscribed")).to_be_visible()
    say(left, "Hello from the left tab")
    say(right, "And hello from the right one")
    right.locator("#kind").select_option("JSON")
    say(right, '{"price": 7.5}')
    for page in (left, right):
        expect(page.locator("#log li", has_text='{"price":7.5}')).to_be_visible()
    pictures = left.screenshot(), right.screenshot()
    context.close()
    return pictures


def say(page: Page, text: str) -> None:
    page.locator("#payload").fill(text)
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("#log li", has_text="(from this tab)").last).to_be_visible()


def side_by_side(browser: Browser, pictures: tuple[bytes, ...]) -> bytes:
    width = len(pictures) * (TAB["width"] + GAP) + GAP
    page = browser.new_page(viewport={"width": width, "height": TAB["height"] + 2 * GAP})
    shown = "".join(f'<img src="data:image/png;base64,{base64.b64encode(one).decode()}">' for one in pictures)
    page.set_content(
        f"<style>body {{ margin: {GAP}px; display: flex; gap: {GAP}px; background: #aeb7bf }}"
        f"img {{ width: {TAB['width']}px; border-radius: 8px; box-shadow: 0 2px 8px #0006 }}</style>{shown}"
    )
    page.locator("img").last.evaluate("image => image.decode()")
    return page.screenshot()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with running_broker("127.0.0.1:8000") as broker, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        (IMAGES / "demo.png").write_bytes(side_by_side(browser, talk(browser, broker.url)))
        browser.close()
        broker.stop()
    print(f"{IMAGES / 'demo.png'}: look at it")


if __name__ == "__main__":
    main()
