"""What docs/http-api.md shows works as it stands there: each curl is run, each code is one that exists."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from broker.api.problems import PROBLEMS
from tests.integration.calling import KEY, serving_api
from tests.integration.harness import JSON

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "http-api.md").read_text()
COMMANDS = re.findall(r"^```sh\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
SHOWN = "127.0.0.1:8001"


def test_the_table_of_errors_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([0-9]+) \|", PAGE, re.MULTILINE)
    assert {code: int(status) for code, status in rows} == {code: row[0] for code, row in PROBLEMS.items()}


def test_readme_shows_the_same_line() -> None:
    assert COMMANDS[0] in (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.mark.asyncio
async def test_every_curl_does_what_it_is_shown_for() -> None:
    assert len(COMMANDS) == 17
    async with serving_api() as broker:
        for command in COMMANDS:
            client = await broker.open(JSON, "/ws", "X-User: ann")
            session = (await client.event())["session"]
            assert SHOWN in command
            running = await asyncio.create_subprocess_exec(
                "sh",
                "-c",
                command.replace("curl ", "curl -sS --fail-with-body ").replace(SHOWN, f"127.0.0.1:{broker.api_port}"),
                env={"KEY": KEY, "SESSION": session, "PATH": "/usr/bin:/bin"},
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await running.communicate()
            assert running.returncode == 0, (command, output)
            assert "error" not in json.loads(output), (command, output)
