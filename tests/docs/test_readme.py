"""What README.md shows works as it stands there: each block is taken out and run against the real command."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from websockets.sync.client import connect

from broker.cli.main import main
from broker.config.load import load
from tests.browser.conftest import show_page
from tests.process.command import Served, environment, run, serving
from tests.process.examples import ADDRESSES, shell

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# In a tab that waits until it hears itself: publishes "before" as long as nobody else is subscribed.
PUBLISH_UNTIL_HEARD = """url => new Promise(done => {
  const socket = new WebSocket(url, ["broker.json.v1"]);
  const publish = () => socket.send(JSON.stringify({type: "publish", channel: "news", text: "before", id: 1}));
  socket.onmessage = event => {
    const message = JSON.parse(event.data);
    if (message.type === "hello" || (message.type === "ack" && !message.subscriptions)) setTimeout(publish, 20);
    if (message.subscriptions) { socket.close(); done(); }
  };
})"""
# The address that README shows, which may be in use where the tests run.
SHOWN = "127.0.0.1:8000"
PATIENCE_MS = 15_000

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    """The one block that contains this text: README shows a thing once."""
    (found,) = (text for text in blocks(language) if containing in text)
    return found


@pytest.fixture(scope="module")
def broker() -> Iterator[Served]:
    with serving() as broker:
        yield broker
        assert broker.stop() == 0


@pytest.fixture
def page(broker: Served, chromium: Browser) -> Iterator[Page]:
    """A page of this machine, not the broker's own."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    yield show_page(context.new_page(), "http://localhost:3000/")
    context.close()


def here(text: str, broker: Served) -> str:
    assert SHOWN in text
    return text.replace(SHOWN, f"{broker.host}:{broker.port}")


def pasted(page: Page, script: str) -> None:
    """As into the console: at the top level of a page."""
    page.add_script_tag(content=script)


def test_the_lines_for_a_page_hear_what_they_send(broker: Served, page: Page) -> None:
    with page.expect_console_message() as heard:
        pasted(page, here(block("js", "hello, everyone"), broker))
    assert heard.value.text == "heard: hello, everyone"


def test_the_lines_for_another_tab_reach_the_first(broker: Served, page: Page) -> None:
    with page.expect_console_message(lambda message: "hello, everyone" in message.text):
        pasted(page, here(block("js", "hello, everyone"), broker))
    with page.expect_console_message() as heard:
        pasted(page, here(block("js", "from another tab"), broker))
    assert heard.value.text == "heard: from another tab"


def test_the_lines_for_coming_back_miss_nothing(page: Page, tmp_path: Path) -> None:
    settings = tmp_path / "broker.toml"
    settings.write_text(f'[server]\nstate_directory = "{tmp_path}"\n')
    flags = ["--history", "100", "--config", str(settings)]
    with serving(*flags) as first:
        port = first.port
        with page.expect_console_message(lambda message: message.text == "got: before"):
            pasted(page, here(block("js", "since."), first))
            # The page may not be there yet; what it is shown first comes live or not at all.
            page.evaluate(PUBLISH_UNTIL_HEARD, f"ws://127.0.0.1:{port}/ws")
        assert first.stop() == 0
    with serving(*flags, listen=f"127.0.0.1:{port}") as second:
        with (
            page.expect_console_message(lambda message: message.text == "got: meanwhile"),
            connect(f"ws://127.0.0.1:{port}/ws", subprotocols=["news|send"]) as back_end,  # type: ignore[list-item]
        ):
            back_end.send("meanwhile")
        assert second.stop() == 0


def test_the_program_reaches_the_page(broker: Served, page: Page) -> None:
    with page.expect_console_message(lambda message: "hello, everyone" in message.text):
        pasted(page, here(block("js", "hello, everyone"), broker))
    program = here(block("python", "websockets"), broker)
    with page.expect_console_message() as heard:
        exec(compile(program, "README.md", "exec"), {})
    assert heard.value.text == "heard: from Python"


def test_the_lines_for_several_channels_hear_their_own_publication(broker: Served, page: Page) -> None:
    with page.expect_console_message() as heard:
        pasted(page, here(block("js", "const all"), broker))
    assert heard.value.text == "room.42 {x: 1}"


def test_the_lines_for_users_and_for_a_back_end_tell_ann_alone(page: Page, tmp_path: Path) -> None:
    *lines, serve = block("sh", "new-key").splitlines()
    assert serve == ".venv/bin/ws-broker serve --config broker.toml --origin http://localhost:3000"
    said = [shell(line.removeprefix(".venv/bin/"), tmp_path) for line in lines]
    token = said[-1].strip()
    with serving(*serve.split()[2:], dev=False, extra=ADDRESSES, cwd=tmp_path) as broker:
        api = broker.api_url.removeprefix("http://")
        mine = here(block("js", "for Ann"), broker)
        assert '"the token"' in mine
        pasted(page, mine.replace('"the token"', f'"{token}"'))
        page.wait_for_function("mine.readyState === 1")
        curl = block("sh", "unread").strip().replace("127.0.0.1:8001", api)
        assert "KEY=$(cat backend.key)" in README
        with page.expect_console_message() as heard:
            shell(f"KEY=$(cat backend.key); {curl}", tmp_path)
        assert heard.value.text == 'for Ann: {"unread": 3}'
        assert broker.stop() == 0


def test_the_line_for_a_back_end_reaches_the_page(page: Page) -> None:
    with serving() as broker:
        assert broker.api_url
        (shown,) = [line for line in broker.lines if "curl" in line]
        with page.expect_console_message(lambda message: "hello, everyone" in message.text):
            pasted(page, here(block("js", "hello, everyone"), broker))
        (key,) = re.findall(r"Bearer (\S+)'", shown)
        (api,) = re.findall(r"http://([^/]+)/", shown)
        with page.expect_console_message() as heard:
            done = subprocess.run(
                ["/bin/sh", "-c", block("sh", "-d 'hello'").replace("127.0.0.1:8001", api)],
                env=environment(KEY=key),
                capture_output=True,
                check=True,
            )
        assert b'"channel":"news"' in done.stdout
        assert heard.value.text == "heard: hello"
        assert broker.stop() == 0


def test_every_block_of_a_page_is_run_by_a_test() -> None:
    assert len(blocks("js")) == 5
    assert len(blocks("python")) == 1


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_configuration_that_is_shown_is_a_right_one(text: str, tmp_path: Path) -> None:
    assert tomllib.loads(text)
    file = tmp_path / "broker.toml"
    file.write_text(text)
    load(file, {"server.dev": True})


def test_every_command_that_is_shown_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(blocks("sh")))) | set(re.findall(r"`make ([a-z-]+)`", README))
    assert shown
    assert shown <= targets
    helped = "".join(run(*one, "--help").output for one in ([], *([name] for name in main.commands)))
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert flags
    assert flags <= set(re.findall(r"--[a-z-]+", helped))


def test_the_command_with_a_configuration_starts_as_it_is_shown() -> None:
    (line,) = (line for line in block("sh", "config/broker.toml").splitlines())
    command, *arguments = line.split()
    assert command == ".venv/bin/ws-broker"
    assert arguments[0:2] == ["serve", "--dev"]
    assert arguments[-2] == "--listen"
    with serving(*arguments[2:-2]) as broker:
        assert broker.stop() == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_a_link_leads_somewhere(target: str) -> None:
    assert target.startswith("https://") or (ROOT / target).exists()


def test_the_links_within_the_page_lead_to_its_headings() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings
