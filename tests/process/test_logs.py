"""The log of real processes: whose lines they are, what a reload changes, and that no secret ever stands in it."""

import json
import re
import signal
import socket
from contextlib import closing, suppress
from pathlib import Path

import jwt
import pytest

from tests.client_frames import CLOSE, TEXT, frame
from tests.integration.harness import request
from tests.log_lines import lines, of_event
from tests.process.api import NEWS, Api
from tests.process.books import Books, books, until
from tests.process.command import Served, read_end, read_frame, serving
from tests.process.supervised import A_WORKER, children

JSON = "broker.json.v1"
MARK = "S3CRET"
PAGE = "https://page.example"
KEY = b"a key of at least thirty-two bytes"
DIRTY_USER = 'ann "é" level=error'
LOUD = '[log]\nlevel = "debug"\naccess = true\nlines_per_second = 100000\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": 4_000_000_000}, KEY, "HS256")


def ask(broker: Served, data: bytes) -> bytes:
    """The whole answer to what need not even be a request."""
    with closing(broker.connect()) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        try:
            return read_end(client)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nothing_that_a_stranger_sends_stands_in_the_log_at_its_loudest(
    workers: str, tmp_path: Path, file: Path
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    file.write_text(
        f'{LOUD}[server]\nextra_channel_characters = "/"\norigins = ["{PAGE}"]\n'
        "[limits]\nrefusal_hold_min_seconds = 0.0\nrefusal_hold_max_seconds = 0.0\nclose_seconds = 0.2\n"
        '[auth]\ncookie = "sid"\n'
        '[auth.keys.site]\nalgorithm = "HS256"\nfile = "key"\n'
        '[channels.">"]\nsubscribe = "anyone"\npublish = "anyone"\n'
    )
    good, wrong = token(DIRTY_USER), token(MARK).replace(".", f".{MARK}", 1)
    with serving("--config", str(file), "--workers", workers) as broker:
        for head in (
            request(offer=f"news, bearer.{wrong}"),
            request(offer=f"{JSON}, news, bearer.{MARK}", origin=PAGE),
            request("/ws", f"Authorization: Bearer {MARK}", f"Cookie: sid={wrong}; other={MARK}", offer="news"),
            request("/ws", f"Cookie: sid={wrong}", offer=f"{MARK}%2Fa", origin=PAGE),
            request(f"/ws?token={wrong}&channel={MARK}%0a%1b[31m"),
            request(f"/{MARK}%0a%1b", f"User-Agent: {MARK}\x1b[31m", f"Referer: http://{MARK}/?token={MARK}"),
            f"GET /{MARK}\x1b[31m HTTP/1.1\r\n\r\n".encode(),
            f"{MARK}\x00\x1b\n".encode() * 100,
        ):
            ask(broker, head)
        for offer in (f"{MARK}, bearer.{good}", f"{JSON}, {MARK}, bearer.{good}", JSON):
            client = broker.open(offer)
            for command in (
                {"type": "auth", "token": wrong},
                {"type": "auth", "token": good},
                {"type": "subscribe", "channel": f"{MARK}\n\x1b[31m"},
                {"type": "publish", "channel": MARK, "text": f"{MARK}\n{MARK}"},
                {"type": MARK},
            ):
                client.sendall(frame(TEXT, json.dumps(command).encode()))
            client.sendall(frame(TEXT, f"{{{MARK}".encode()) + frame(CLOSE, (1000).to_bytes(2) + MARK.encode()))
            while client.recv(65536):
                pass
            client.close()
        api = Api(broker)
        assert api.ask(NEWS, MARK.encode()).status == 200
        for target in (f"/v1/channels/{MARK}%0a/messages", f"/v1/users/{MARK}/disconnect?x={MARK}", f"/{MARK}"):
            for key in (api.key, f"wsb_{MARK}{MARK}"):
                api.ask(target, MARK.encode(), key=key)
        with closing(api.connect()) as client:
            client.sendall(f"{MARK} {MARK}\r\n\r\n".encode())
            read_end(client)
        broker.logged("session ended", 3)
        assert broker.stop() == 0
        log = broker.errors
    assert "cookie holds no valid token" in log, "the loudest level was on"
    assert of_event(log, "api request", key="dev", status=200), "the access log was on"
    assert {line["user"] for line in of_event(log, "session opened")} == {None, DIRTY_USER}
    for secret in (MARK, good, wrong, api.key, KEY.decode(), "bearer.ey"):
        assert secret not in log, [line for line in log.splitlines() if secret in line]
    assert re.fullmatch(r"[\x20-\x7e\n]*", log)
    assert len(lines(log)) == len(log.splitlines()), "nothing else stands on standard error"


def test_the_access_log_has_a_line_for_each_session_and_each_request(file: Path) -> None:
    file.write_text("[log]\naccess = true\n")
    with serving("--config", str(file)) as broker:
        page, raw = broker.open(f"{JSON}, news, weather"), broker.open("news|recv")
        hello = json.loads(read_frame(page)[1])
        page.close()
        (ended,) = broker.logged("session ended", session=hello["session"])
        api = Api(broker)
        assert api.ask(NEWS, b"x").status == 200
        assert api.ask("/v1/channels/a/presence", b"", method="GET").status == 404
        assert api.ask(NEWS, b"x", key="wrong").status == 401
        assert api.ask("/v1/nothing", b"", method="GET").status == 404
        assert broker.stop() == 0
        (left,) = broker.logged("session ended", cause="going_away")
        opened = of_event(broker.errors, "session opened")
        asked = of_event(broker.errors, "api request")
        raw.close()
    assert [(line["format"], line["channels"], line["address"]) for line in opened] == [
        ("json", 2, "127.0.0.1"),
        ("raw", 1, "127.0.0.1"),
    ]
    assert opened[0]["session"] == hello["session"]
    assert ended["code"] is None
    assert ended["seconds"] >= 0
    assert (left["session"], left["code"]) == (opened[1]["session"], 1001)
    channel = "/v1/channels/{channel}"
    assert [(line["method"], line["route"], line["status"], line["key"]) for line in asked] == [
        ("POST", f"{channel}/messages", 200, "dev"),
        ("GET", f"{channel}/presence", 404, "dev"),
        ("POST", f"{channel}/messages", 401, None),
        ("GET", None, 404, "dev"),
    ]
    assert all(line["ms"] >= 0 for line in asked)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_changes_what_is_logged_in_every_process(workers: str, file: Path) -> None:
    file.write_text("")
    with serving("--config", str(file), "--workers", workers) as broker:
        quiet = broker.open(JSON)
        assert not of_event(broker.errors, "session opened")
        file.write_text('[log]\naccess = true\nlevel = "error"\nlines_per_second = 5\n')
        broker.signal(signal.SIGHUP)
        if workers == "2":
            # Said by nobody: they are below "error". The old ones are gone when their sessions are.
            assert read_frame(quiet)
            with suppress(ConnectionResetError):
                read_end(quiet)
        else:
            until(lambda: opened_again(broker), lambda: broker.errors)
        broker.open(JSON).close()
        broker.logged("session opened")
        before = len(lines(broker.errors))
        file.write_text('[log]\naccess = false\nformat = "console"\n')
        broker.signal(signal.SIGHUP)
        until(lambda: "[info     ] reloaded" in broker.errors, lambda: broker.errors)
        quiet.close()
        assert broker.stop() == 0
        said = [line["event"] for line in lines(broker.errors)[:before]]
    assert "reloaded" not in said
    assert "[info     ] broker ended" in broker.errors


def opened_again(broker: Served) -> bool:
    """Whether a session is a line by now."""
    broker.open(JSON).close()
    return bool(of_event(broker.errors, "session opened"))


def test_each_line_says_which_process_it_is_of(file: Path) -> None:
    file.write_text("")
    with serving("--config", str(file), "--workers", "2") as broker:
        accepted = broker.logged("child accepts", 2, child=A_WORKER)
        broker.logged("broker accepts", listen=f"127.0.0.1:{broker.port}")
        links = broker.logged("link to the engine is up", 2)
        assert {(line["process"], line["pid"]) for line in links} == {
            (line["child"], line["child_pid"]) for line in accepted
        }
        everybody = {broker.process.pid, *children(broker)}
        assert broker.stop() == 0
        log = lines(broker.errors)
    assert {line["process"] for line in log} == {"supervisor", "engine", "worker 0", "worker 1"}
    assert {line["pid"] for line in log} == everybody
    told = [line["event"] for line in log if line["process"] == "supervisor"]
    assert told[0] == "broker starts"
    assert told[-1] == "broker ended"
    assert told.index("broker stops") < told.index("child ended")
    for worker in ("worker 0", "worker 1"):
        assert [line["event"] for line in log if line["process"] == worker and line["event"].startswith("drain")] == [
            "drain begins",
            "drain ended",
        ]


def test_every_unsafe_setting_is_warned_of_at_the_start_and_at_a_reload(file: Path) -> None:
    file.write_text('[server]\norigins = ["*"]\n')
    with serving("--config", str(file)) as broker:
        unsafe = {line["setting"] for line in broker.logged("setting is unsafe", 2)}
        assert unsafe == {"server.dev", "server.origins"}
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded")
        assert len(broker.logged("setting is unsafe", setting="server.origins")) == 2
        assert broker.stop() == 0


def test_a_flood_of_one_kind_of_line_is_cut_and_counted(file: Path) -> None:
    file.write_text('[log]\nlevel = "debug"\nlines_per_second = 1\n')
    with serving("--config", str(file), "--workers", "2") as broker, books(broker) as page:
        for _ in range(30):
            client = broker.open(JSON)
            client.close()
        until(
            lambda: told_or_written(broker) == 30,
            lambda: broker.errors,
        )
        until(lambda: counted(page) == told(broker) > 0, lambda: f"{counted(page)} counted, {told(broker)} told")
        assert broker.stop() == 0


def counted(page: Books) -> int:
    return sum(row["n_log_suppressed"] for row in page.all())


def told(broker: Served) -> int:
    return sum(int(line["lines"]) for line in of_event(broker.errors, "log lines suppressed", process=A_WORKER))


def told_or_written(broker: Served) -> int:
    suppressed = of_event(broker.errors, "log lines suppressed", of="session opened")
    return len(of_event(broker.errors, "session opened")) + sum(int(line["lines"]) for line in suppressed)


def test_a_start_that_fails_is_still_a_plain_line_for_people(file: Path) -> None:
    file.write_text("[log]\nlevel = 7\n")
    with pytest.raises(AssertionError, match=r"ws-broker: log\.level: .*"), serving("--config", str(file)):
        pass
