"""What a release hands out: the source archive is whole, the wheel has all that runs and nothing else, and whoever has
nothing but the wheel gets as far as the README promises: a page, a publish, the first metric.
"""

import os
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.process.command import ROOT, Served, environment
from tests.process.packages import make_sdist, make_wheel, tracked

MODULES = {path.stem for path in (ROOT / "broker/native").glob("*.pyx")}


@pytest.fixture(scope="module")
def sdist() -> Path:
    return make_sdist()


@pytest.fixture(scope="module")
def wheel() -> Path:
    return make_wheel()


def test_the_source_archive_has_all_that_building_and_running_it_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    folders = ("broker/", "config/", "deploy/", "docs/", "requirements/")
    files = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
    assert {name for name in tracked() if name.startswith(folders) or name in files} - names == set()
    assert not [name for name in names if name.endswith((".so", ".c", ".pyc")) or name.startswith(("tests/", "build/"))]


def test_the_wheel_has_what_runs_and_no_sources_of_the_core(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"broker/py.typed", "broker/web/client.js", "broker/web/demo.html", "broker/native/_hub.pyi"} <= names
    python = {name for name in tracked() if name.startswith("broker/") and name.endswith((".py", ".pyi"))}
    assert python - names == set()
    assert {name.split("/")[2].split(".")[0] for name in names if name.endswith(".so")} == MODULES
    kinds = {Path(name).suffix for name in names if name.startswith("broker/")}
    assert kinds == {".py", ".pyi", ".so", ".typed", ".js", ".html"}
    assert {name.split("/")[0] for name in names if not name.startswith("ws_broker-")} == {"broker"}


@pytest.mark.parametrize("libc", ["manylinux", "musllinux"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_release_builds_wheels_for_every_python_that_is_promised(libc: str, machine: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--print-build-identifiers", "."],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert {f"cp3{minor}-{libc}_{machine}" for minor in range(11, 15)} == {
        line for line in found.stdout.split() if line.endswith(f"-{libc}_{machine}")
    }


PAGE = (ROOT / "docs/systemd.md").read_text()


def shown(containing: str) -> str:
    """The one block of commands in docs/systemd.md that has this."""
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (block,) = (text for text in blocks if containing in text)
    return block


def follow(block: str, folder: Path) -> None:
    """Runs it as it stands, with the folders of the system inside of this one, and nothing installed in the system."""
    for system in ("/opt/", "/etc/"):
        block = block.replace(system, f"{folder}{system}")
    commands = [line.removeprefix("sudo ") for line in block.replace("| sudo ", "| ").splitlines()]
    script = "\n".join(line for line in commands if not line.startswith("apt-get "))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder,
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def running(program: Path, folder: Path) -> Iterator[Served]:
    with subprocess.Popen(
        [program, "serve", "--dev", "--listen", "127.0.0.1:0"],
        cwd=folder,
        env={
            name: value
            for name, value in environment().items()
            if not name.startswith(("PYTHON", "BROKER_", "WSBROKER_"))
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Served(process)
        finally:
            process.kill()


def test_a_newcomer_with_a_wheel_gets_to_a_message_and_its_metric(wheel: Path, tmp_path: Path) -> None:
    """By what docs/systemd.md shows, in an environment that has nothing: not even what tests have."""
    (tmp_path / "opt").mkdir()
    (tmp_path / "etc").mkdir()
    for name in ("config", "requirements"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "dist").symlink_to(wheel.parent)
    follow(shown("VERSION=0.1.0"), tmp_path)
    follow(shown("api-key"), tmp_path)
    program = tmp_path / "opt/ws-broker/current/bin/ws-broker"
    with running(program, tmp_path) as broker:
        assert broker.api_url
        with connect(broker.url, subprotocols=["news"], proxy=None) as page:  # type: ignore[list-item]
            page.send("hello, everyone")
            assert page.recv(30) == "hello, everyone"
            curl = next(line for line in broker.lines if "curl " in line)
            answer = subprocess.run(
                ["sh", "-c", curl[curl.index("curl ") :]], capture_output=True, text=True, check=True, timeout=30
            )
            assert '"channel":"news"' in answer.stdout
            assert page.recv(30)
        with urllib.request.urlopen(f"{broker.admin_url}/metrics", timeout=30) as metrics:
            assert b'\nwsbroker_messages_total{stage="published"} 2.0\n' in metrics.read()
        assert broker.stop() == 0
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert re.match(r"ws-broker \S+ \(release build, Python ", version.stdout)
