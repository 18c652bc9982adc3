"""docs/systemd.md and docs/container.md name files, units and commands that there are.

The steps of the installation run in tests/process/test_packages.py, those of the image in test_container.py there.
"""

import re
from pathlib import Path

import pytest

from broker.cli.main import main
from tests.process.command import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["systemd", "container"]
UNITS = {path.name for path in (ROOT / "deploy/systemd").iterdir()}


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_files_that_are_named_are_there(name: str) -> None:
    files = set(re.findall(r"(?<![\w/.-])(?:deploy|config|requirements)/[\w./-]*\w", page(name)))
    assert files
    assert not [file for file in files if not any(ROOT.glob(f"{file}*"))]


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_their_flags_are_there(name: str) -> None:
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL))
    called = re.findall(r"ws-broker (api-key|check-config|serve|[a-z]+-[a-z]+)\b([^|>\n]*)", blocks)
    assert called
    for command, arguments in called:
        assert command in main.commands
        flags = set(re.findall(r"--[a-z][a-z-]*", arguments))
        assert flags <= set(re.findall(r"--[a-z-]+", run(command, "--help").output))


def test_units_that_are_named_are_shipped() -> None:
    named = set(re.findall(r"ws-broker[a-z-]*\.(?:service|socket)", page("systemd")))
    assert named == UNITS
