"""What docs/publishing.md shows publishes, and repeats what was not published without publishing it twice."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.docs.pages import languages, marked, page
from tests.process.command import PATIENCE_SECONDS, environment, serving
from tests.process.pretended_api import Asked, Reply, pretending, problem, published

PAGE = page("publishing.md")
BLOCKS = marked(PAGE)


class Program(NamedTuple):
    """How a sample is started: the file it stands in, what is written beside it, and what runs."""

    file: str
    main: str
    command: tuple[str, ...]


PROGRAMS = {
    "shell": Program("main.sh", BLOCKS["shell"], ("bash", "-e", "main.sh")),
    "python": Program("push.py", 'import push\npush.publish("orders", {"id": 7})\n', (sys.executable, "main.py")),
    "ruby": Program("push.rb", 'require "./push"\nBroker.publish("orders", { id: 7 })\n', ("ruby", "-w", "main.rb")),
    "php": Program("push.php", '<?php\nrequire "push.php";\npublish("orders", ["id" => 7]);\n', ("php", "main.php")),
    "node": Program(
        "push.mjs", 'import { publish } from "./push.mjs";\nawait publish("orders", { id: 7 });\n', ("node", "main.mjs")
    ),
}
# A request, a database and a settings module are what a site has; the lines between are the page's.
DJANGO = """
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True)
import django
django.setup()
import types
from django.db import transaction
from shop import pay
request = types.SimpleNamespace(user=types.SimpleNamespace(pk="ann"))
try:
    with transaction.atomic():
        pay(request, 6)
        raise KeyError
except KeyError:
    pass
assert pay(request, 7).status_code == 200
"""
FASTAPI = """
from fastapi.testclient import TestClient
from app import app
with TestClient(app) as client:
    assert client.post("/rooms/42/messages", params={"text": "hello"}).json() == {"accepted": True}
"""
BATCH = "from push import client\n" + BLOCKS["batch"] + "assert len(results) == 2 and not refused, results\n"


class Api(NamedTuple):
    url: str
    key: str

    def kept(self, channel: str) -> list[dict[str, Any]]:
        """The messages that the channel holds."""
        asked = urllib.request.Request(
            f"{self.url}/v1/channels/{channel}/messages", headers={"Authorization": f"Bearer {self.key}"}
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
            found: list[dict[str, Any]] = json.load(answer)["messages"]
        return found


def runs(program: Program, folder: Path, url: str, key: str) -> None:
    done = subprocess.run(
        program.command,
        cwd=folder,
        env=environment(BROKER_URL=url, BROKER_KEY=key),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done


@pytest.fixture(scope="module")
def broker() -> Iterator[Api]:
    with serving("--history", "100") as served:
        url = served.api_url
        (key,) = re.findall(r"Bearer (\S+?)'", "\n".join(served.lines))
        yield Api(url, key)
        assert served.stop() == 0


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Program]:
    def written(name: str) -> Program:
        program = PROGRAMS[name]
        (tmp_path / program.file).write_text(BLOCKS[name])
        (tmp_path / program.command[-1]).write_text(program.main)
        return program

    return written


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_message_of_the_sample_arrives_once(
    name: str, write: Callable[[str], Program], tmp_path: Path, broker: Api
) -> None:
    before = broker.kept("orders")
    runs(write(name), tmp_path, *broker)
    (message,) = broker.kept("orders")[len(before) :]
    assert message["data"] == {"id": 7}
    assert message["id"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_not_published_is_sent_again_with_the_same_id(
    name: str, write: Callable[[str], Program], tmp_path: Path
) -> None:
    replies = [problem(503, "overloaded", "later", ("Retry-After", "0"))]
    if name != "shell":  # curl takes a connection that was cut for an end
        replies.append(Reply(0, None))

    def answer(asked: Asked) -> Reply:
        return replies.pop() if replies else published(asked)

    expected = len(replies) + 1
    with pretending(answer) as api:
        runs(write(name), tmp_path, api.url, "of-a-test")
    assert len(api.asked) == expected
    assert len({one.body["message_id"] for one in api.asked}) == 1
    assert {one.authorization for one in api.asked} == {"Bearer of-a-test"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_refused_is_an_error_and_not_sent_again(
    name: str, write: Callable[[str], Program], tmp_path: Path
) -> None:
    with pretending(lambda asked: problem(403, "not_permitted", "no")) as api:
        done = subprocess.run(
            write(name).command,
            cwd=tmp_path,
            env=environment(BROKER_URL=api.url, BROKER_KEY="k"),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert done.returncode != 0
    assert "403" in done.stderr + done.stdout
    assert len(api.asked) == 1


def test_the_django_view_publishes_what_was_committed_and_nothing_else(tmp_path: Path, broker: Api) -> None:
    (tmp_path / "push.py").write_text(BLOCKS["python"])
    (tmp_path / "shop.py").write_text(BLOCKS["django"])
    runs(Program("shop.py", "", (sys.executable, "-c", DJANGO)), tmp_path, *broker)
    assert [one["data"] for one in broker.kept("user.ann")] == [{"order": 7, "paid": True}]


def test_the_fastapi_application_publishes_in_the_room_of_its_path(tmp_path: Path, broker: Api) -> None:
    (tmp_path / "app.py").write_text(BLOCKS["fastapi"])
    runs(Program("app.py", "", (sys.executable, "-c", FASTAPI)), tmp_path, *broker)
    assert [one["data"] for one in broker.kept("room.42")] == [{"text": "hello"}]


def test_the_batch_reaches_each_of_its_channels(tmp_path: Path, broker: Api) -> None:
    (tmp_path / "push.py").write_text(BLOCKS["python"])
    runs(Program("batch.py", "", (sys.executable, "-c", BATCH)), tmp_path, *broker)
    assert broker.kept("user.bob")[-1]["data"] == {"sale": True}


def test_every_block_is_run_but_those_that_the_page_says_are_not() -> None:
    # Beside the marked ones: how the key is made (test_command_line.py runs that), the model of Rails, the Go program.
    assert set(BLOCKS) == {*PROGRAMS, "django", "fastapi", "batch"}
    assert languages(PAGE) == {"sh": 2, "python": 4, "ruby": 2, "php": 1, "js": 1, "go": 1}
