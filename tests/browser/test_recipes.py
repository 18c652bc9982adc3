"""What docs/browser.md shows works as it stands there, with the real packages; client.js holds what its types say."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.process.command import serving

from .conftest import Broker, show_page
from .test_client import HEARD_ALL, publish

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/browser.md").read_text()
SHOWN = "broker.example.com"
STARTS = {
    "partysocket": 'import "./recipe.js";',
    "react-use-websocket": 'import { createElement } from "react"; import { createRoot } from "react-dom/client";'
    'import { News } from "./recipe.js"; createRoot(document.body).render(createElement(News));',
    "VueUse": 'import { createApp } from "vue"; import { news } from "./recipe.js";'
    "createApp({ setup() { news(); return () => null; } }).mount(document.body);",
}

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop


def shown(heading: str) -> str:
    """The first block of JavaScript below this heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n.*?^```js\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def test_the_client_is_type_checked_as_its_comments_say(modules: Path) -> None:
    command: list[str | Path] = [
        modules / "node_modules/.bin/tsc",
        "--noEmit",
        "--allowJs",
        "--checkJs",
        "--strict",
        "--target",
        "es2022",
    ]
    command += ["--lib", "es2022,dom", "--module", "es2022", ROOT / "broker/web/client.js"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_lines_with_the_client_hear_what_they_publish(broker: Broker, new_page: Callable[[], Page]) -> None:
    code = shown("client.js").replace(f"https://{SHOWN}/", broker.url).replace(f"wss://{SHOWN}/ws", broker.ws_url)
    start = "<script>heard = []; show = event => heard.push(event.data);</script>"
    html = f"<!doctype html>{start}<script type=module>{code}</script>"
    page = show_page(new_page(), "http://localhost:3000/", html)
    page.wait_for_function(HEARD_ALL, arg=1)
    assert page.evaluate("heard") == [{"x": 1}]


@pytest.mark.parametrize("library", STARTS)
def test_a_recipe_comes_back_with_the_broker_and_misses_nothing(
    modules: Path, tmp_path: Path, new_page: Callable[[], Page], library: str
) -> None:
    settings = tmp_path / "broker.toml"
    settings.write_text(f'[server]\nstate_directory = "{tmp_path}"\n')
    flags = ["--history", "1000", "--config", str(settings)]
    with serving(*flags) as first:
        address = f"{first.host}:{first.port}"
        (tmp_path / "recipe.js").write_text(shown(library).replace(f"wss://{SHOWN}/ws", f"ws://{address}/ws"))
        (tmp_path / "start.js").write_text(STARTS[library])
        (tmp_path / "node_modules").symlink_to(modules / "node_modules")
        command: list[str | Path] = [
            modules / "node_modules/.bin/esbuild",
            "start.js",
            "--bundle",
            "--format=iife",
            "--outfile=bundle.js",
        ]
        command += ['--define:process.env.NODE_ENV="production"', "--log-level=warning"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        page = show_page(new_page(), f"http://{address}/plain.html", "<!doctype html><body>")
        page.evaluate("() => { window.heard = []; window.show = event => heard.push(event.data); }")
        page.evaluate("code => { (0, eval)(code); }", (tmp_path / "bundle.js").read_text())
        # Until it is subscribed nobody keeps anything for it.
        numbers = iter(range(1_000_000))
        while not page.evaluate("heard.length"):
            at = next(numbers)
            publish(first, range(at, at + 1))
        begun = page.evaluate("heard[0]")
        assert first.stop() == 0
    with serving(*flags, listen=address) as second:
        end = next(numbers)
        publish(second, range(end, end + 20))
        page.wait_for_function("end => heard.at(-1) === end", arg=end + 19, timeout=60_000)
        assert page.evaluate("heard") == list(range(begun, end + 20))
        assert second.stop() == 0
