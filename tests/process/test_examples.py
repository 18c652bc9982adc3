"""config/examples/: each file as it stands there, served and used by the lines of its own comments."""

import json
import signal
import socket
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from broker.config.schema import AuthKey, ChannelPolicy, Server
from tests.client_frames import TEXT
from tests.integration.harness import request
from tests.process.command import read_frame, read_head, run
from tests.process.examples import EXAMPLES, NAMES, SERVE, Example, commands, ended, event, example, prepared, shell
from tests.process.supervised import worker_of, workers

BAD_OFFER, NOT_AUTHENTICATED, NOT_PERMITTED, CANNOT_PUBLISH, DISCONNECTED = 4500, 4501, 4503, 4505, 4510
KIB = 1024
JSON_BODY = "-H 'Content-Type: application/json' -d "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def feed(folder: Path) -> Iterator[Example]:
    with example("public-feed", folder / "feed") as broker:
        yield broker


@pytest.fixture(scope="module")
def chat(folder: Path) -> Iterator[Example]:
    with example("chat", folder / "chat") as broker:
        yield broker


@pytest.fixture(scope="module")
def private(folder: Path) -> Iterator[Example]:
    with example("private-channels", folder / "private") as broker:
        yield broker


@pytest.fixture(scope="module")
def dashboards(folder: Path) -> Iterator[Example]:
    with example("dashboards", folder / "dashboards") as broker:
        yield broker


def test_there_are_examples() -> None:
    assert NAMES == ["chat", "dashboards", "private-channels", "public-feed"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_right_configuration_when_its_comment_was_followed(name: str, tmp_path: Path) -> None:
    result = run("check-config", "--config", str(prepared(name, tmp_path / name)), cwd=tmp_path)
    assert (result.status, result.errors) == (0, "")
    assert "the API on 127.0.0.1:8001 (1 key)" in result.output


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_nothing_that_holds_anyway(name: str) -> None:
    text = (EXAMPLES / f"{name}.toml").read_text()
    said = tomllib.loads(text)
    tables: list[tuple[dict[str, object], object]] = [(said["server"], Server())]
    tables += [(table, ChannelPolicy()) for table in said["channels"].values()]
    tables += [(table, AuthKey(algorithm="RS256")) for table in said.get("auth", {}).get("keys", {}).values()]
    for table, default in tables:
        # Who may listen is said even where it is the default: it is what a reader looks for.
        assert not [key for key, value in table.items() if key != "subscribe" and getattr(default, key) == value]
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 20


# Public feed.


def test_everybody_hears_the_feed_and_nobody_but_the_back_end_speaks_in_it(feed: Example) -> None:
    with feed.connect("feed.scores") as page, feed.connect("feed.scores", origin=None) as program:
        assert feed.curl("'3:1'")["position"]
        assert page.recv() == program.recv() == "3:1"
        page.send("4:1")
        assert ended(page)[0] == CANNOT_PUBLISH
    with feed.connect("broker.json.v1", "feed.scores|last.1") as page:
        assert event(page, "message")["text"] == "3:1"
        page.send(json.dumps({"type": "publish", "channel": "feed.scores", "text": "4:1", "id": 1}))
        assert event(page, "error")["code"] == "not_permitted"


def test_a_page_of_another_origin_cannot_hear_the_feed_through_its_visitors(feed: Example) -> None:
    with pytest.raises(InvalidStatus) as refused:
        feed.connect("feed.scores", origin="https://www.example.org")
    assert refused.value.response.status_code == 403


def test_a_channel_that_the_example_does_not_name_is_nobodys(feed: Example) -> None:
    with feed.connect("secret.plans") as page:
        assert ended(page)[0] == NOT_PERMITTED


def test_a_key_that_is_not_the_back_ends_publishes_nothing(feed: Example) -> None:
    with feed.connect("feed.scores") as page:
        assert feed.curl("$(cat backend.key)", "wsb_of-nobody")["code"] == "not_authenticated"
        feed.curl("'3:1'")
        assert page.recv() == "3:1"


# Chat.


def test_people_in_a_room_see_each_other_and_what_was_said_before(chat: Example) -> None:
    with chat.connect("broker.json.v1", "room.42|last.20", token=chat.token("ann")) as ann:
        assert event(ann, "hello")["user"] == "ann"
        ann.send('{"type": "publish", "channel": "room.42", "data": {"text": "hello"}}')
        said = event(ann, "message")
        assert (said["data"], said["from"]["user"]) == ({"text": "hello"}, "ann")
        assert said["from"]["info"] == {"name": "Ann"}
        with chat.connect("broker.json.v1", "room.42|last.20", token=chat.token("bob")) as bob:
            assert event(bob, "message")["data"] == {"text": "hello"}
            assert event(ann, "join")["members"][0]["user"] in ("ann", "bob")
            bob.send(json.dumps({"type": "presence", "channel": "room.42", "id": 1}))
            assert {one["user"] for one in event(bob, "presence")["members"]} == {"ann", "bob"}
            chat.curl("closing at ten")
            for page in (ann, bob):
                while event(page, "message")["data"] != {"text": "closing at ten"}:
                    pass


def test_a_token_for_one_room_opens_no_other(chat: Example) -> None:
    line = "ws-broker token --sub ann --subscribe room.7 --key-file keys/site.private.pem"
    with chat.connect("broker.json.v1", "room.7", "room.42", token=chat.token("eve", line)) as eve:
        channels = event(eve, "hello")["channels"]
        assert "error" not in channels[0]
        assert channels[1]["error"]["code"] == "not_permitted"
        for room in ("room.7", "room.42"):
            eve.send(json.dumps({"type": "publish", "channel": room, "data": 1, "id": 1}))
            assert event(eve, "error")["code"] == "not_permitted"
        eve.send(json.dumps({"type": "history", "channel": "room.42", "id": 2}))
        assert event(eve, "error")["code"] == "not_permitted"


def test_who_has_no_token_or_one_of_another_key_is_nobody_in_the_chat(chat: Example, tmp_path: Path) -> None:
    with chat.connect("broker.json.v1", "room.42") as nobody:
        assert ended(nobody)[0] == NOT_AUTHENTICATED
    shell("ws-broker new-key keys", tmp_path)
    (line,) = [one for one in commands("chat") if one.startswith("ws-broker token")]
    with chat.connect("broker.json.v1", "room.42", token=shell(line, tmp_path).strip()) as forger:
        assert ended(forger)[0] == NOT_AUTHENTICATED


def test_who_is_sent_away_is_closed_and_told_not_to_come_back(chat: Example) -> None:
    with chat.connect("broker.json.v1", "room.42", token=chat.token("mallory")) as page:
        event(page, "hello")
        assert chat.curl("users/ann", "users/mallory") == {"disconnected": 1}
        assert ended(page)[0] == DISCONNECTED


def test_who_talks_too_fast_is_told_so_and_heard_again_later(chat: Example) -> None:
    with chat.connect("broker.json.v1", "room.9", token=chat.token("ann")) as page:
        for number in range(50):
            page.send(json.dumps({"type": "publish", "channel": "room.9", "data": number, "id": number}))
        assert event(page, "error")["code"] == "rate_limited"


# Private channels.


def test_each_user_hears_what_is_meant_for_him_on_every_page_and_nobody_else_does(private: Example) -> None:
    ann = private.token("ann")
    with private.connect("user.ann", token=ann) as one, private.connect("user.ann", token=ann) as other:
        assert private.curl("user.ann")["position"]
        assert json.loads(one.recv()) == json.loads(other.recv()) == {"unread": 3}
    bob = private.token("bob")
    for channel, code in (("user.ann", NOT_PERMITTED), ("user.*", BAD_OFFER), ("user.bob.x", NOT_PERMITTED)):
        with private.connect("broker.json.v1", channel.replace("*", "%2A"), token=bob) as page:
            assert ended(page)[0] == code
    with private.connect("broker.json.v1", "user.bob", token=bob) as page:
        for channel in ("user.ann", "user.bob"):
            page.send(json.dumps({"type": "publish", "channel": channel, "data": 1, "id": 1}))
            assert event(page, "error")["code"] == "not_permitted"
        page.send(json.dumps({"type": "subscribe", "channel": "user.ann", "id": 2}))
        assert event(page, "subscribed")["channels"][0]["error"]["code"] == "not_permitted"
    with private.connect("user.ann") as nobody:
        assert ended(nobody)[0] == NOT_AUTHENTICATED


def test_a_user_called_like_a_pattern_hears_nobody_else(private: Example) -> None:
    with private.connect("broker.json.v1", "user.ann", token=private.token("'*'")) as page:
        assert ended(page)[0] == NOT_PERMITTED


# Dashboards.


def test_a_page_begins_with_the_latest_value_and_hears_what_changes(dashboards: Example) -> None:
    token = dashboards.token("ann")
    dashboards.curl('{"sold": 7}')
    with dashboards.connect("dashboard.sales.today|last.1", "dashboard.sales.week", token=token) as page:
        assert json.loads(page.recv()) == {"sold": 7}
        assert all("error" not in one for one in dashboards.curl("v1/publish")["results"])
        assert [json.loads(page.recv()), json.loads(page.recv())] == [{"sold": 8}, {"sold": 40}]
    with dashboards.connect("dashboard.wages.today", token=token) as page:
        assert ended(page)[0] == NOT_PERMITTED


def test_what_is_no_json_never_reaches_a_dashboard(dashboards: Example) -> None:
    assert dashboards.curl('{"sold": 7}', "sold: 7")["code"] == "bad_payload"


# What the comment shows as the body of a batch.
BATCH = (
    """'[{"channel": "dashboard.sales.today", "data": {"sold": 8}}, """
    """{"channel": "dashboard.sales.week", "data": {"sold": 40}}]'"""
)


def test_a_page_that_does_not_keep_up_skips_to_the_newest_value(dashboards: Example) -> None:
    token = dashboards.token("ann")
    count, wide = 12, 50
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        client.settimeout(30)
        client.connect((dashboards.broker.host, dashboards.broker.port))
        client.sendall(request(offer=f"broker.json.v1, bearer.{token}, dashboard.sales.live"))
        assert b" 101 " in read_head(client)
        assert json.loads(read_frame(client)[1])["type"] == "hello"
        batch = dashboards.folder / "batch.json"
        for start in range(count):
            many = [
                {"channel": "dashboard.sales.live", "data": {"sold": start * wide + one, "x": "x" * 60 * KIB}}
                for one in range(wide)
            ]
            batch.write_text(json.dumps(many))
            assert len(dashboards.curl(BATCH, "@batch.json")["results"]) == wide
        heard, missed, last = 0, 0, -1
        while last != count * wide - 1:
            opcode, payload = read_frame(client)
            assert opcode in (TEXT, 9)
            said = json.loads(payload) if opcode == TEXT else {}
            if said.get("type") == "message":
                heard, last = heard + 1, said["data"]["sold"]
            missed += said.get("missed", 0)
    assert heard + missed == count * wide
    assert missed > count * wide // 2


# Several workers.


@contextmanager
def on_each(broker: Example, *offer: str, token: str) -> Iterator[list[ClientConnection]]:
    """A client on each worker of two."""
    found: dict[int, ClientConnection] = {}
    with ExitStack() as opened:
        for _ in range(500):
            if found.keys() >= set(workers(broker.broker).values()):
                break
            client = opened.enter_context(broker.connect(*offer, token=token))
            found.setdefault(worker_of(broker.broker, client.socket), client)
        assert len(found) == 2, "the kernel gives one worker nobody"
        yield list(found.values())


def test_two_workers_are_one_chat(folder: Path) -> None:
    flags = ["--workers", "2"]
    with (
        example("chat", folder / "two", flags) as chat,
        on_each(chat, "broker.json.v1", "room.42", token=chat.token("bob")) as bobs,
        on_each(chat, "broker.json.v1", "room.42", token=chat.token("ann")) as pages,
    ):
        for page in (*pages, *bobs):
            event(page, "hello")
        # Each curl is a connection of its own, and the kernel chooses the worker of each.
        for number in range(8):
            chat.curl("closing at ten", f"closing at {number}")
        for page in pages:
            heard = [event(page, "message")["data"]["text"] for _ in range(8)]
            assert heard == [f"closing at {number}" for number in range(8)]
        subscribed = chat.curl("-X POST", JSON_BODY + """'{"channels": ["room.43"]}'""", "/disconnect", "/subscribe")
        assert subscribed["sessions"] >= len(pages)
        for page in pages:
            assert event(page, "subscribed")["channels"][0]["channel"] == "room.43"
        pages[0].send('{"type": "publish", "channel": "room.43", "data": {"text": "here too"}}')
        assert event(pages[1], "message")["channel"] == "room.43"
        assert chat.curl("users/ann")["disconnected"] >= len(pages)
        for page in pages:
            assert ended(page)[0] == DISCONNECTED
        chat.curl("closing at ten", "good night")
        for page in bobs:
            while event(page, "message")["data"]["text"] != "good night":
                pass


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_rotated_key_is_taken_after_a_reload_and_the_removed_one_no_more(count: str, folder: Path) -> None:
    flags = ["--workers", count]
    with example("chat", folder / f"rotated-{count}", flags, WSBROKER_DRAIN_WINDOW_SECONDS="0") as chat:
        old = chat.token("ann")
        with chat.connect("broker.json.v1", "room.42", token=old) as page:
            event(page, "hello")
        file = chat.folder / "broker.toml"
        shell("ws-broker new-key keys --name next >> broker.toml", chat.folder)
        (shown,) = [one for one in commands("chat") if one.startswith("ws-broker token")]
        new = chat.token("ann", shown.replace("site.private", "next.private"))
        with chat.connect("broker.json.v1", "room.42", token=new) as early:
            assert ended(early)[0] == NOT_AUTHENTICATED
        chat.broker.signal(signal.SIGHUP)
        chat.broker.logged("reloaded")
        for token in (old, new):
            with chat.connect("broker.json.v1", "room.42", token=token) as page:
                assert event(page, "hello")["user"] == "ann"
        file.write_text(
            file.read_text().replace("[auth.keys.site]", "[auth.keys.gone]").replace("site.public", "next.public")
        )
        chat.broker.signal(signal.SIGHUP)
        chat.broker.logged("reloaded", 2)
        with chat.connect("broker.json.v1", "room.42", token=new) as page:
            assert event(page, "hello")["user"] == "ann"
        with chat.connect("broker.json.v1", "room.42", token=old) as late:
            assert ended(late)[0] == NOT_AUTHENTICATED


def test_the_comment_ends_with_the_broker_that_it_prepares() -> None:
    assert all(commands(name).count(SERVE) == 1 for name in NAMES)
