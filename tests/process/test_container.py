"""deploy/docker: the image, as far as it shows without an engine. docs/container.md says what was built by hand."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from broker.config.schema import Config
from tests.process.command import COMMAND, ROOT, Served, environment
from tests.process.dockerfile import DOCKERFILE, image, sources, stages, texts

FOLDER = DOCKERFILE.parent
IMAGE = image()
PORTS = {"SERVER": 8000, "API": 8001, "ADMIN": 9000}


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    program = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_what_is_copied_is_there_and_let_through() -> None:
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for stage in stages() for source in sources(stage)]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
    assert sorted(copied) == sorted(let_through)


def test_the_image_has_no_compiler_and_runs_as_nobody_in_particular() -> None:
    build, last = stages()
    assert any("gcc" in text for text in texts(build, "RUN"))
    assert not [text for text in texts(last, "RUN") for tool in ("gcc", "-dev", "pip", "make") if tool in text]
    assert IMAGE.user == "65532:65532"
    assert IMAGE.stop_signal == "SIGTERM"
    assert texts(last, "EXPOSE") == [" ".join(map(str, PORTS.values()))]
    listens = {name: IMAGE.variables[f"WSBROKER_{name}_LISTEN"] for name in PORTS}
    assert listens == {name: f"0.0.0.0:{port}" for name, port in PORTS.items()}


@contextmanager
def container(folder: Path) -> Iterator[Served]:
    """The image's command with its variables and its configuration, its ports chosen by the system."""
    state = IMAGE.variables["WSBROKER_SERVER_STATE_DIRECTORY"]
    assert any(f"install -d -o 65532 -g 65532 -m 0700 {state}" in text for text in texts(stages()[-1], "RUN"))
    variables = {name: value for name, value in IMAGE.variables.items() if name.startswith("WSBROKER_")}
    for name in PORTS:
        variables[f"WSBROKER_{name}_LISTEN"] = "0.0.0.0:0"
    variables["WSBROKER_SERVER_STATE_DIRECTORY"] = str(folder)
    program, *arguments = IMAGE.command
    assert program == "ws-broker"
    (given,) = (text.split() for text in texts(stages()[-1], "COPY") if "broker.toml" in text)
    assert given[1] in arguments
    arguments = [str(ROOT / given[0]) if word == given[1] else word for word in arguments]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Served(process)
        finally:
            process.kill()


def opened(broker: Served, origin: str | None) -> ClientConnection:
    return connect(
        f"ws://127.0.0.1:{broker.port}/ws",
        subprotocols=[Subprotocol("public.news")],
        origin=None if origin is None else Origin(origin),
        proxy=None,
    )


def test_an_image_that_nobody_configured_starts_warns_lets_no_page_in_and_is_healthy(tmp_path: Path) -> None:
    with container(tmp_path) as broker:
        broker.logged("clients come from a network without TLS", hosts="0.0.0.0")
        broker.logged("no page may connect", setting="server.origins")
        with opened(broker, None):
            pass
        with pytest.raises(InvalidStatus) as refused:
            opened(broker, "https://www.example.com")
        assert refused.value.response.status_code == 403
        admin = broker.admin_url.rpartition(":")[2]
        _, *question = IMAGE.health
        health = [sys.executable, *(word.replace("9000", admin) for word in question)]
        assert subprocess.run(health, check=False, timeout=30).returncode == 0
        broker.signal(signal.Signals[IMAGE.stop_signal])
        assert broker.status() == 0
    assert subprocess.run(health, capture_output=True, check=False, timeout=30).returncode == 1


def test_the_drain_ends_before_docker_kills() -> None:
    drain, limits = Config().drain, Config().limits
    least = drain.delay_seconds + drain.window_seconds + limits.close_seconds + limits.linger_seconds + 10
    page = (ROOT / "docs/container.md").read_text()
    asked = {
        int(line.split("--stop-timeout ")[1].split()[0].strip("`:"))
        for line in page.splitlines()
        if "--stop-timeout" in line
    }
    assert len(asked) == 1
    assert min(asked) >= least
