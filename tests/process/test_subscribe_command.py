"""`ws-broker subscribe` in a shell: lines that pipes take, a clean end, and coming back without missing anything."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.process.command import COMMAND, PATIENCE_SECONDS, Served, environment, run, serving, talking
from tests.process.pretended_api import Reply, pretending

CANNOT, USAGE, INTERRUPTED = 1, 2, 130


@pytest.fixture(scope="module")
def broker() -> Iterator[Served]:
    with serving("--history", "100") as broker:
        yield broker
        assert broker.stop() == 0


def url_of(broker: Served) -> str:
    return f"ws://127.0.0.1:{broker.port}/ws"


def send(broker: Served, channel: str, *commands: Mapping[str, object]) -> None:
    with connect(url_of(broker), subprotocols=[Subprotocol("broker.json.v1")]) as socket:
        socket.recv()
        for command in commands:
            socket.send(json.dumps({"type": "publish", "channel": channel, "id": 1, **command}))
            assert json.loads(socket.recv())["type"] == "ack"


def subscribed(broker: Served, *arguments: str) -> list[str]:
    """Its lines, begun with what the history holds: nobody has to wait until it listens."""
    result = run("subscribe", *arguments, WSBROKER_URL=url_of(broker))
    assert (result.status, result.errors) == (0, "")
    return result.output.splitlines()


@contextmanager
def subscribing(broker: Served, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    with talking("subscribe", *arguments, WSBROKER_URL=url_of(broker)) as process:
        yield process


def shell(broker: Served, line: str, more: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        line.replace("ws-broker", " ".join(COMMAND)),
        shell=True,
        executable="/bin/bash",
        env=environment(WSBROKER_URL=url_of(broker), **(more or {})),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_each_kind_of_message_is_one_line(broker: Served) -> None:
    send(broker, "kinds", {"text": "plain ünïcode"}, {"data": {"price": [1, "two"]}}, {"base64": "AP8="})
    assert subscribed(broker, "kinds", "--last", "3", "--count", "3") == [
        "plain ünïcode",
        '{"price":[1,"two"]}',
        "AP8=",
    ]


def test_json_that_was_published_over_several_lines_is_one_line_with_its_numbers_as_written(broker: Served) -> None:
    with connect(url_of(broker), subprotocols=[Subprotocol("broker.json.v1")]) as socket:
        socket.recv()
        socket.send('{"type":"publish","channel":"broken","data":{\n "price": 1.50\n},"id":1}')
        assert json.loads(socket.recv())["type"] == "ack"
    assert subscribed(broker, "broken", "--last", "1", "--count", "1") == ['{"price":1.50}']
    (line,) = subscribed(broker, "broken", "--last", "1", "--count", "1", "--json")
    assert '"data":{"price":1.50}' in line


def test_whole_events_have_the_position_to_go_on_from(broker: Served) -> None:
    send(broker, "events", {"text": "one"}, {"text": "two"})
    first, second = map(json.loads, subscribed(broker, "events", "--last", "2", "--count", "2", "--json"))
    assert [first["text"], second["text"]] == ["one", "two"]
    assert subscribed(broker, "events", "--since", first["position"], "--count", "1") == ["two"]


@pytest.mark.parametrize("reader", ["jq -c .x", "python3 -m json.tool --json-lines --compact --no-ensure-ascii"])
def test_json_goes_through_a_pipe(broker: Served, reader: str) -> None:
    send(broker, "piped", {"data": {"x": 1}}, {"data": {"x": 2}})
    done = shell(broker, f"ws-broker subscribe piped --last 2 --count 2 | {reader}")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_what_is_heard_is_published_again_through_a_pipe(broker: Served) -> None:
    send(broker, "source", *({"text": str(number)} for number in range(20)))
    with pretending() as api:
        line = "set -o pipefail; ws-broker subscribe source --last 20 --count 20 | ws-broker publish copy -"
        done = shell(broker, line, api.environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert api.texts == [str(number) for number in range(20)]


def test_it_ends_when_nobody_reads_on_without_waiting_for_another_message(broker: Served) -> None:
    send(broker, "headed", {"text": "one"})
    done = shell(broker, "ws-broker subscribe headed --last 1 | head -1; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("one\n0\n", "")


def test_a_closed_standard_output_is_one_line(broker: Served) -> None:
    send(broker, "closed", {"text": "one"})
    done = shell(broker, "ws-broker subscribe closed --last 1 >&-")
    assert (done.returncode, done.stderr) == (CANNOT, "ws-broker: standard output is closed\n")


def test_each_line_is_there_before_the_next_message_is_published(broker: Served) -> None:
    with subscribing(broker, "live", "--last", "1") as process:
        assert process.stdout is not None
        for text in ("one", "two", "three"):
            # The first may come as history, the others come live.
            send(broker, "live", {"text": text})
            assert process.stdout.readline() == f"{text}\n"


def test_ctrl_c_ends_it_with_130_and_without_a_traceback(broker: Served) -> None:
    send(broker, "interrupted", {"text": "one"})
    with subscribing(broker, "interrupted", "--last", "1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_SECONDS) == ("", "")
        assert process.returncode == INTERRUPTED


def test_a_restart_of_the_broker_loses_and_repeats_nothing(tmp_path: Path) -> None:
    settings = tmp_path / "broker.toml"
    settings.write_text(f'[server]\nstate_directory = "{tmp_path}"\n')
    flags = ["--history", "100", "--config", str(settings)]
    with serving(*flags) as first:
        send(first, "news", {"text": "before"})
        with subscribing(first, "news", "--last", "1", "--count", "3") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "before\n"
            assert first.stop() == 0
            assert "comes back in" in process.stderr.readline()
            with serving(*flags, listen=f"127.0.0.1:{first.port}") as second:
                send(second, "news", {"text": "meanwhile"}, {"text": "after"})
                assert process.stdout.readline() == "meanwhile\n"
                assert process.stdout.readline() == "after\n"
                assert process.wait(PATIENCE_SECONDS) == 0
                assert "missing" not in process.stderr.read()
                assert second.stop() == 0


def test_a_channel_that_is_none_is_named_at_once(broker: Served) -> None:
    result = run("subscribe", "news", "a b", WSBROKER_URL=url_of(broker))
    assert result.status == CANNOT
    assert "a b: " in result.one_line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ws://127.0.0.1:1/ws", "nobody listens there"),
        ("ws://broker.invalid/ws", "this host name is not known"),
    ],
)
def test_no_broker_at_the_address_is_one_line(url: str, said: str) -> None:
    result = run("subscribe", "news", WSBROKER_URL=url)
    assert result.status == CANNOT
    assert result.one_line.startswith(f"{url}: {said}")


def test_another_path_of_the_broker_is_one_line(broker: Served) -> None:
    result = run("subscribe", "news", "--url", url_of(broker).replace("/ws", "/nothing"))
    assert result.status == CANNOT
    assert " 404" in result.one_line


def test_a_server_of_something_else_is_one_line() -> None:
    with pretending(lambda _: Reply(200, b"<html>", "text/html")) as api:
        url = api.url.replace("http:", "ws:")
        result = run("subscribe", "news", "--url", url)
    assert result.status == CANNOT
    assert "is no WebSocket of the broker" in result.one_line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["a", "b", "--since", "x"], "--since goes with one CHANNEL"),
        (["a", "a"], "named twice"),
        (["a", "--count", "0"], "--count"),
        (["a", "--url", "http://127.0.0.1:8000/ws"], "is not ws://HOST:PORT"),
        (["a", "--token-file", "/nowhere"], "no such file"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Sequence[str], said: str) -> None:
    result = run("subscribe", *arguments)
    assert result.status == USAGE
    assert said in result.errors


def test_a_token_with_a_line_end_in_it_is_refused_and_not_shown() -> None:
    result = run("subscribe", "news", WSBROKER_TOKEN="eyJ.a\r\nX-Evil: 1")
    assert result.status == USAGE
    assert "Evil" not in result.errors
