"""What docs/configuration.md shows is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.config.load import load

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
ASSIGNMENTS = re.findall(r"\| `(WSBROKER_[A-Z_]+)='?(.*?)'?` \|", TEXT)


def test_the_first_file_is_a_configuration(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    file = tmp_path / "broker.toml"
    file.write_text(block)
    config = load(file)
    assert list(config.channels) == ["news", "user.{sub}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_works(command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_variables_of_the_page_are_settings() -> None:
    assert len(ASSIGNMENTS) == 5
    config = load(None, None, None, dict(ASSIGNMENTS))
    assert config.server.origins == ["https://a.example", "https://b.example"]
    assert config.channels["news"].subscribe == "anyone"
