"""What docs/command-line.md shows works as it stands there, and it shows every command."""

import re
import subprocess
from pathlib import Path

import pytest

from broker.cli.main import main
from broker.config.load import load
from tests.process.command import COMMAND, PATIENCE_SECONDS, environment, run

PAGE = (Path(__file__).resolve().parents[2] / "docs/command-line.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_lines_for_keys_and_tokens_leave_a_configuration_and_a_token(tmp_path: Path) -> None:
    (block,) = (text for text in BLOCKS if "new-key" in text)
    done = subprocess.run(
        ["/bin/bash", "-ec", block.replace("ws-broker", " ".join(COMMAND))],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(Path(__file__).resolve().parents[2])),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = load(tmp_path / "broker.toml", {"server.dev": True})
    assert list(config.auth.keys) == ["site"]
    assert list(config.api.keys) == ["backend"]
    assert (tmp_path / "ann.token").read_text().count(".") == 2


def test_every_command_has_its_row() -> None:
    assert set(main.commands) <= set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", PAGE))))
def test_every_flag_that_is_shown_is_there(flag: str) -> None:
    options = {name for command in (main, *main.commands.values()) for one in command.params for name in one.opts}
    assert flag in {*options, "--help"}


def test_every_variable_that_is_shown_is_named_in_the_help() -> None:
    helped = "".join(run(name, "--help").output for name in main.commands)
    assert set(re.findall(r"WSBROKER_[A-Z_]+", PAGE)) <= set(re.findall(r"WSBROKER_[A-Z_]+", helped))
