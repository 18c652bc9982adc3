"""`ws-broker publish` and a broker: what arrives, in which order, and how often."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.command import COMMAND, PATIENCE_SECONDS, Served, environment, run, serving, talking

INTERRUPTED, CANNOT = 130, 1
BATCH = 7
LIMITS = f"[api]\nmax_batch_messages = {BATCH}\n"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file = tmp_path_factory.mktemp("small") / "broker.toml"
    file.write_text(LIMITS)
    with serving("--history", "1000", "--workers", "2", "--config", str(file)) as broker:
        yield broker
        assert broker.stop() == 0


def heard(broker: Served, channel: str, count: int, *flags: str) -> list[str]:
    """The last messages that are kept, and that there are no more than `count`."""
    result = run("subscribe", channel, "--last", str(count + 1), "--count", str(count), *flags, WSBROKER_URL=broker.url)
    assert (result.status, result.errors) == (0, "")
    return result.output.splitlines()


@contextmanager
def publishing(broker: Served, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Lines of its standard input; a line of its output for each that is published."""
    with talking("publish", *arguments, "--result") as process:
        yield process


def say(process: "subprocess.Popen[str]", line: str) -> None:
    """Waits until it is published."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["position"]


def piped(lines: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, "publish", *arguments],
        input=lines,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stderr


def test_more_lines_than_a_broker_takes_at_once_arrive_in_order(broker: Served) -> None:
    lines = [f"line {number}" for number in range(20 * BATCH)]
    assert piped("\n".join(lines), "many", "-") == (0, "")
    assert heard(broker, "many", len(lines)) == lines


def test_each_kind_arrives_as_what_it_is(broker: Served, tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"\x00\xff")
    for arguments in (["text"], ["--json", '{"x": [1, 2]}'], ["--base64", "AP8="]):
        assert run("publish", "kinds", *arguments) == (0, "", "")
    assert run("publish", "kinds", "--file", str(picture), "--binary") == (0, "", "")
    events = [json.loads(line) for line in heard(broker, "kinds", 4, "--json")]
    assert [event.get("text", event.get("data", event.get("base64"))) for event in events] == [
        "text",
        {"x": [1, 2]},
        "AP8=",
        "AP8=",
    ]


def test_a_pipe_that_is_repeated_with_its_message_ids_publishes_nothing_twice(broker: Served) -> None:
    for _ in range(2):
        assert piped("a\nb\nc\n", "once", "-", "--message-id", "import") == (0, "")
    assert piped("end\n", "once", "-") == (0, "")
    result = run("subscribe", "once", "--last", "10", "--count", "4", WSBROKER_URL=broker.url)
    assert result.output.splitlines() == ["a", "b", "c", "end"]


def test_json_lines_go_through_jq_on_both_sides(broker: Served) -> None:
    line = (
        "set -o pipefail; seq 3 | jq -c '{x: .}' | ws-broker publish objects - --json"
        " && ws-broker subscribe objects --last 3 --count 3 | jq -c .x"
    )
    done = subprocess.run(
        ["/bin/bash", "-c", line.replace("ws-broker", " ".join(COMMAND))],
        env=environment(WSBROKER_URL=broker.url),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n3\n", "")


def test_ctrl_c_ends_a_pipe_with_130_and_without_a_traceback(broker: Served) -> None:
    with publishing(broker, "interrupted", "-") as process:
        say(process, "one")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_SECONDS) == ("", "")
        assert process.returncode == INTERRUPTED
    assert heard(broker, "interrupted", 1) == ["one"]


def test_a_channel_that_is_none_is_one_line(broker: Served) -> None:
    assert broker.process.poll() is None
    result = run("publish", "a b", "hi")
    assert result.status == CANNOT
    assert result.one_line
    status, errors = piped("1\n2\n", "$no", "-")
    assert status == CANNOT
    assert errors.startswith("ws-broker: line 1: ")
    assert errors.count("\n") == 1


def test_a_pipe_outlives_a_restart_of_the_broker_and_publishes_each_line_once(tmp_path: Path) -> None:
    """A key of its own: that of --dev ends with its broker."""
    key = tmp_path / "key"
    table = run("api-key", "backend", "--key-file", str(key)).output
    file = tmp_path / "broker.toml"
    file.write_text(f'[server]\nstate_directory = "{tmp_path}"\n{table}')
    flags = ["--history", "100", "--config", str(file)]
    with serving(*flags) as first:
        url = first.api_url
        with publishing(first, "news", "-", "--api-url", url, "--api-key-file", str(key)) as process:
            say(process, "before")
            assert first.stop() == 0
            assert process.stdin is not None
            process.stdin.write("meanwhile\n")
            process.stdin.flush()
            api = url.removeprefix("http://")
            with serving(*flags, listen=f"127.0.0.1:{first.port}", api_listen=api) as second:
                assert process.stdout is not None
                assert json.loads(process.stdout.readline())["position"]
                say(process, "after")
                assert process.communicate(timeout=PATIENCE_SECONDS) == ("", "")
                assert process.returncode == 0
                assert heard(second, "news", 3) == ["before", "meanwhile", "after"]
                assert second.stop() == 0
