"""docs/quick-start.md as a newcomer follows it: each way to start a broker, and what the page does with it then.

Only where the broker listens is put in its place, by variables. Docker is not here: of the container's way the command
that the image runs is run, with the variables that the image and the page give it.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.browser.conftest import show_page
from tests.docs.pages import ROOT, languages, marked, page
from tests.process.command import COMMAND, PATIENCE_SECONDS, Served, environment
from tests.process.packages import make_wheel

TEXT = page("quick-start.md")
BLOCKS = marked(TEXT)
PATIENCE_MS = 15_000
# The addresses that the page shows may be in use where the tests run.
ADDRESSES = {f"WSBROKER_{name}_LISTEN": "127.0.0.1:0" for name in ("SERVER", "API", "ADMIN")}
# What the outer make was told is not meant for the one that the page shows.
NOT_OURS = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS")

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop


@contextmanager
def started(command: Sequence[str], folder: Path, **more: str) -> Iterator[Served]:
    """Until Ctrl-C, which a terminal sends to all that the command has started."""
    given = {name: value for name, value in environment(**ADDRESSES, **more).items() if name not in NOT_OURS}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            served = Served(process)
            yield served
            os.killpg(process.pid, signal.SIGINT)
            served.status()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def speaks(served: Served) -> None:
    """A page of this machine hears what it publishes."""
    url = f"ws://127.0.0.1:{served.port}/ws"
    with connect(url, origin=Origin("http://localhost:3000"), subprotocols=[Subprotocol("news")]) as socket:
        socket.send("hello")
        assert socket.recv(PATIENCE_SECONDS) == "hello"


def test_the_source_way_serves_what_was_built() -> None:
    (line,) = BLOCKS["source"].splitlines()
    with started(shlex.split(line), ROOT) as served:
        speaks(served)


def test_the_wheel_way_installs_a_command_that_serves(tmp_path: Path) -> None:
    make, install, serve = BLOCKS["wheel"].splitlines()
    (tmp_path / "dist").mkdir()
    shutil.copy(make_wheel(), tmp_path / "dist")
    run_line(make.replace("python3", sys.executable), tmp_path)
    # Its dependencies are those of the tests, instead of once more from the network.
    (packages,) = (tmp_path / "broker-env/lib").glob("python3.*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"))
    run_line(install, tmp_path, PIP_NO_DEPS="1", PIP_NO_INDEX="1")
    assert (packages / "broker/web/client.js").exists()
    with started(shlex.split(serve), tmp_path, PYTHONPATH="") as served:
        speaks(served)


def run_line(line: str, folder: Path, **more: str) -> str:
    done = subprocess.run(
        ["/bin/bash", "-ec", line],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


def docker_run() -> tuple[dict[str, str], list[str], list[str]]:
    """Variables, published ports, and what follows the name of the image."""
    line = BLOCKS["container"].split("docker run ")[1].replace("\\\n", " ")
    words = shlex.split(line)
    at = words.index("ws-broker", words.index("ws-broker") + 1)  # the first is the container's name
    options, command = words[:at], words[at + 1 :]
    pairs = list(pairwise(options))
    variables = dict(value.split("=") for flag, value in pairs if flag == "-e")
    return variables, [value for flag, value in pairs if flag == "-p"], command


def test_the_container_way_serves_pages_of_this_machine_from_all_addresses_of_the_container(tmp_path: Path) -> None:
    variables, ports, command = docker_run()
    (file,) = re.findall(r"docker build .*-f (\S+)", BLOCKS["container"])
    image = (ROOT / file).read_text()
    assert 'ENTRYPOINT ["ws-broker"]' in image
    assert set(re.findall(r"WSBROKER_[A-Z]+_LISTEN(?==0\.0\.0\.0:)", image)) == set(ADDRESSES)
    assert ports == [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 9000)]
    inside = dict.fromkeys(ADDRESSES, "0.0.0.0:0")
    given = dict(environment(**variables, PYTHONPATH=str(ROOT)), **inside)
    with subprocess.Popen(
        [*COMMAND, *command], cwd=tmp_path, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            served = Served(process)
            assert served.host == "127.0.0.1", "what it names can be opened"
            speaks(served)
            assert served.stop() == 0
        finally:
            if process.poll() is None:
                process.kill()


# --- What follows is the same for all three.


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the key of this run is, by which the commands find the broker; nobody else's is there."""
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def broker(alone: Path) -> Iterator[Served]:
    with started([*COMMAND, "serve", "--dev"], ROOT, TMPDIR=str(alone)) as served:
        yield served


@pytest.fixture
def listening(broker: Served, chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    shown = BLOCKS["page"]
    assert "127.0.0.1:8000" in shown
    html = shown.replace("127.0.0.1:8000", f"127.0.0.1:{broker.port}")
    tab = show_page(context.new_page(), "http://localhost:3000/", html)
    tab.wait_for_function("socket.readyState === 1")
    yield tab
    context.close()


def test_the_page_hears_the_shell_by_curl_with_the_key_that_is_printed(broker: Served, listening: Page) -> None:
    api = broker.api()
    (key,) = re.findall(r"Bearer (\S+?)'", "\n".join(broker.lines))
    line = BLOCKS["publish"].replace("KEY", key).replace("127.0.0.1:8001", api)
    assert '"channel":"news"' in run_line(line.replace("curl ", "curl -sS --fail-with-body "), ROOT)
    listening.locator("li", has_text="hello from a shell").wait_for()


def test_the_page_hears_the_command_which_finds_the_broker_by_itself(
    broker: Served, listening: Page, alone: Path
) -> None:
    assert broker.api_url
    for line in BLOCKS["command"].splitlines():
        run_line(line.replace("ws-broker", shlex.join(COMMAND), 1), ROOT, TMPDIR=str(alone))
    listening.locator("li", has_text="hello from a shell").wait_for()
    listening.locator("li", has_text='{"price": 7}').wait_for()


def test_the_first_number_that_is_seen_is_how_many_pages_are_connected(broker: Served, listening: Page) -> None:
    line = BLOCKS["metric"]
    assert "http://127.0.0.1:9000/metrics" in line
    said = run_line(line.replace("http://127.0.0.1:9000", broker.admin_url), ROOT)
    assert said.splitlines()[0] == 'wsbroker_connections{worker="0"} 1.0'


def test_every_block_of_the_page_is_run() -> None:
    assert set(BLOCKS) == {"container", "wheel", "source", "page", "publish", "command", "metric"}
    assert sum(languages(TEXT).values()) == len(BLOCKS)
