"""What docs/reconnecting.md and docs/react.md show: a page that comes back with the broker and misses nothing."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.docs.pages import ROOT, languages, marked, page
from tests.process.command import Served, serving

from .conftest import show_page
from .test_client import publish

RECONNECTING = page("reconnecting.md")
REACT = page("react.md")
MAIN = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app.jsx";
createRoot(document.body).render(<StrictMode><App url="/ws" /></StrictMode>);
"""
BACK_AGAIN_MS = 60_000

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop


def listening(new_page: Callable[[], Page], broker: Served, name: str) -> Page:
    """A page that runs the sample; what it is told is in `heard`, `missed` and `end`."""
    code = marked(RECONNECTING)["plain"]
    html = f"""<!doctype html><script type=module>{code}
      Object.assign(window, {{heard: [], missed: [], end: null}});
      listen("ws://{broker.host}:{broker.port}/ws", "{name}", {{
        onmessage: event => heard.push(event.data), onmissed: count => missed.push(count),
        onend: (...why) => end = why,
      }});
    </script>"""
    return show_page(new_page(), "http://localhost:3000/", html)


def test_the_plain_websocket_comes_back_with_the_broker_and_misses_nothing(
    new_page: Callable[[], Page], tmp_path: Path
) -> None:
    settings = tmp_path / "broker.toml"
    settings.write_text(f'[server]\nstate_directory = "{tmp_path}"\n')
    flags = ["--history", "1000", "--config", str(settings)]
    with serving(*flags) as first:
        shown = listening(new_page, first, "news")
        # Until it is subscribed nobody keeps anything for it.
        begun = 0
        while not shown.evaluate("heard.length"):
            begun += 1
            publish(first, range(begun, begun + 1))
        publish(first, range(begun + 1, begun + 10))
        assert first.stop() == 0
    with serving(*flags, listen=f"{first.host}:{first.port}") as second:
        publish(second, range(begun + 10, begun + 20))
        shown.wait_for_function("end => heard.at(-1) === end", arg=begun + 19, timeout=BACK_AGAIN_MS)
        heard = shown.evaluate("heard")
        assert heard == list(range(heard[0], begun + 20))
        assert shown.evaluate("missed") == []
        assert second.stop() == 0
    with serving("--history", "1000", listen=f"{first.host}:{first.port}"):
        # Another life of the history: what was missed is unknown, and said once.
        shown.wait_for_function("missed.length", timeout=BACK_AGAIN_MS)
        assert shown.evaluate("missed") == [None]
    assert shown.evaluate("end") is None


def test_the_plain_websocket_takes_a_refusal_for_an_end(new_page: Callable[[], Page]) -> None:
    with serving() as broker:
        shown = listening(new_page, broker, "$system")
        shown.wait_for_function("end")
        code, reason = shown.evaluate("end")
        assert (code, "bad_offer" in reason) == (4500, True)
        assert broker.stop() == 0


def test_the_lines_with_the_client_connect_and_hear(new_page: Callable[[], Page]) -> None:
    with serving() as broker:
        address = f"{broker.host}:{broker.port}"
        code = marked(RECONNECTING)["client"]
        for scheme in ("https", "wss"):
            assert f"{scheme}://broker.example.com/" in code
            code = code.replace(f"{scheme}://broker.example.com/", f"{scheme.removesuffix('s')}://{address}/")
        tab = new_page()
        tab.route("http://localhost:3000/ws-token", lambda route: route.fulfill(body="of-a-test"))
        given = """heard = []; states = []; show = event => heard.push(event); badge = state => states.push(state);
          loadEverything = () => {};"""
        html = f"<!doctype html><script>{given}</script><script type=module>{code}</script>"
        show_page(tab, "http://localhost:3000/", html)
        tab.wait_for_function("states.includes('open')")
        while not tab.evaluate("heard.length"):
            publish(broker, range(1))
        assert tab.evaluate("heard[0].data") == 0
        assert broker.stop() == 0


def bundle(modules: Path, folder: Path) -> str:
    blocks = marked(REACT)
    (folder / "live.jsx").write_text(blocks["hook"])
    (folder / "app.jsx").write_text(blocks["room"])
    (folder / "main.jsx").write_text(MAIN)
    shutil.copy(ROOT / "broker/web/client.js", folder)
    (folder / "node_modules").symlink_to(modules / "node_modules")
    command: list[str | Path] = [modules / "node_modules/.bin/esbuild", "main.jsx", "--bundle", "--format=iife"]
    command += ["--jsx=automatic", "--outfile=bundle.js", "--log-level=warning"]
    # Development, where StrictMode mounts everything twice.
    command += ['--define:process.env.NODE_ENV="development"']
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "bundle.js").read_text()


def test_the_react_room_shows_each_message_once_through_a_restart(
    modules: Path, new_page: Callable[[], Page], tmp_path: Path
) -> None:
    settings = tmp_path / "broker.toml"
    settings.write_text(f'[server]\nstate_directory = "{tmp_path}"\n')
    flags = ["--history", "1000", "--config", str(settings)]
    script = bundle(modules, tmp_path)
    with serving(*flags) as first:
        address = f"{first.host}:{first.port}"
        shown = show_page(new_page(), f"http://{address}/plain.html", "<!doctype html><body>")
        shown.evaluate("code => { (0, eval)(code); }", script)
        room = shown.get_by_label("room.42")
        expect(room).to_contain_text("live")
        room.get_by_role("button").click()
        expect(room.locator("li")).to_have_text(["hello"])
        assert first.stop() == 0
        expect(room).to_contain_text("coming back…")
    with serving(*flags, listen=address) as second:
        with connect(second.url, subprotocols=[Subprotocol("broker.json.v1")]) as client:
            for number in range(3):
                client.send(json.dumps({"type": "publish", "channel": "room.42", "data": {"text": str(number)}}))
        expect(room.locator("li")).to_have_text(["hello", "0", "1", "2"], timeout=BACK_AGAIN_MS)
        expect(room).to_contain_text("live")
        assert second.stop() == 0


def test_every_block_of_the_two_guides_is_run() -> None:
    # Beside them one curl.
    assert languages(RECONNECTING) == {"js": 2}
    assert languages(REACT) == {"sh": 1, "jsx": 2}
