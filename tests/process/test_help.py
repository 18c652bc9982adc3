"""The help: there at once, and for every command with examples of flags that exist."""

import re
import sys

import pytest

from broker.cli.main import main
from tests.process.command import run

HEAVY = ("litestar", "uvicorn", "httpx", "jwt", "cryptography", "websockets", "uvloop", "asyncio", "broker.worker")


@pytest.mark.parametrize("arguments", ["--help", "publish --help", "token --help", "api-key x"])
def test_a_small_command_waits_for_no_library_that_it_does_not_use(arguments: str) -> None:
    program = (
        "import sys; from broker.cli.main import main\n"
        f"try: main({arguments.split()!r})\n"
        f"except SystemExit: print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = run(command=[sys.executable, "-c", program])
    assert result.status == 0
    assert result.output.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", main.commands)
def test_every_command_shows_examples_with_flags_that_it_has(name: str) -> None:
    text = run(name, "--help").output
    examples = re.findall(rf"^    .*\bws-broker {name}\b.*$", text, re.MULTILINE)
    assert examples
    known = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE))
    for example in examples:
        (own,) = re.findall(rf"ws-broker {name}\b([^|]*)", example)
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", own)) <= known


def test_the_list_of_commands_says_whole_sentences_on_a_narrow_terminal() -> None:
    output = run("--help", COLUMNS="80").output
    assert "..." not in output.partition("Commands:")[2]
    assert len(re.findall(r"^  [a-z][a-z-]+ +[A-Z].*\.$", output, re.MULTILINE)) == len(main.commands)
