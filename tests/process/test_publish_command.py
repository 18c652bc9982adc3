"""`ws-broker publish` in a shell script: order, retries that publish nothing twice, errors in a line."""

import itertools
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.process.command import COMMAND, PATIENCE_SECONDS, Result, environment, run
from tests.process.pretended_api import KEY, Asked, PretendedApi, Reply, messages, pretending, problem, published

CANNOT, USAGE = 1, 2


def asking(api: PretendedApi, *arguments: str) -> Result:
    return run(*arguments, WSBROKER_API_URL=api.url, WSBROKER_API_KEY=KEY)


def fed(lines: bytes, api: PretendedApi, *arguments: str) -> Result:
    done = subprocess.run(
        [*COMMAND, "publish", "news", "-", *arguments],
        input=lines,
        env=environment(**api.environment),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_message_arrives_as_text_with_the_key_of_the_environment() -> None:
    with pretending() as api:
        result = asking(api, "publish", "news", "hello, ünïverse")
    assert result == (0, "", "")
    assert api.asked == [Asked("POST", "/v1/publish", f"Bearer {KEY}", {"channel": "news", "text": "hello, ünïverse"})]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--json", '{"x": 1.50}'], {"data": {"x": 1.5}}),
        (["--base64", "AP8="], {"base64": "AP8="}),
        (["hi", "--message-id", "order-7"], {"text": "hi", "message_id": "order-7"}),
        ([""], {"text": ""}),
    ],
)
def test_each_kind_of_message_arrives_as_what_it_is(arguments: list[str], body: dict[str, object]) -> None:
    with pretending() as api:
        assert asking(api, "publish", "news", *arguments) == (0, "", "")
    assert api.asked[0].body == {"channel": "news", **body}


def test_a_file_arrives_whole_as_text_or_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("two\nlines\n")
    (tmp_path / "picture").write_bytes(b"\x00\xff")
    with pretending() as api:
        assert asking(api, "publish", "news", "--file", str(tmp_path / "text")).status == 0
        assert asking(api, "publish", "news", "--file", str(tmp_path / "picture"), "--binary").status == 0
        refused = asking(api, "publish", "news", "--file", str(tmp_path / "picture"))
    assert [asked.body for asked in api.asked] == [
        {"channel": "news", "text": "two\nlines\n"},
        {"channel": "news", "base64": "AP8="},
    ]
    assert refused.status == USAGE
    assert "--binary" in refused.one_line


def test_a_thousand_lines_arrive_in_order_in_few_requests() -> None:
    lines = [f"line {number}" for number in range(1000)]
    with pretending() as api:
        assert fed("\n".join(lines).encode(), api) == (0, "", "")
    assert api.texts == lines
    assert len(api.asked) <= 20


def test_a_line_is_published_as_soon_as_it_is_there() -> None:
    with (
        pretending() as api,
        subprocess.Popen(
            [*COMMAND, "publish", "news", "-", "--result"],
            env=environment(**api.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for text in (b"first", b"", b"third"):
            process.stdin.write(text + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"channel": "news", "position": None, "subscriptions": 0}
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0
    assert api.texts == ["first", "", "third"]


def test_a_broker_that_takes_less_at_once_gets_smaller_batches_in_order() -> None:
    def small(asked: Asked) -> Reply:
        return published(asked) if len(messages(asked)) <= 10 else problem(413, "too_large", "at most 10")

    lines = [str(number) for number in range(100)]
    with pretending(small) as api:
        assert fed("\n".join(lines).encode(), api).status == 0
    assert [one["text"] for asked in api.asked if len(messages(asked)) <= 10 for one in messages(asked)] == lines


def test_a_refused_line_is_named_and_none_after_its_batch_is_published() -> None:
    def picky(asked: Asked) -> Reply:
        answer = published(asked)
        for result, one in zip(answer.body["results"], messages(asked), strict=True):
            if one["text"] == "bad":
                result["error"] = {"code": "bad_payload", "message": "the payload cannot be delivered"}
        return answer

    with pretending(picky) as api:
        result = fed(b"one\nbad\nthree\n", api, "--result")
    assert result.status == CANNOT
    assert (
        result.one_line == "line 2: bad_payload: the payload cannot be delivered; 1 of those behind it were published"
    )
    assert len(result.output.splitlines()) == 1


def test_a_line_that_is_no_json_is_named_after_those_before_it_are_published() -> None:
    with pretending() as api:
        result = fed(b"1\n{\n3\n", api, "--json")
    assert result.status == CANNOT
    assert result.one_line.startswith("line 2 is not JSON")
    assert [one["data"] for asked in api.asked for one in messages(asked)] == [1]


def test_what_the_broker_says_did_not_happen_is_published_again() -> None:
    refusals = itertools.chain(
        [problem(503, "engine_unavailable", "later", ("Retry-After", "0"))], itertools.repeat(None)
    )
    with pretending(lambda asked: next(refusals) or published(asked)) as api:
        assert asking(api, "publish", "news", "hi") == (0, "", "")
    assert api.texts == ["hi", "hi"]


@pytest.mark.parametrize("trouble", [problem(503, "outcome_unknown", "nobody knows"), Reply(0, b"")])
def test_what_may_have_happened_is_not_published_twice(trouble: Reply) -> None:
    with pretending(lambda _: trouble) as api:
        result = asking(api, "publish", "news", "hi")
    assert result.status == CANNOT
    assert "nobody knows" in result.one_line
    assert api.texts == ["hi"]


def test_what_may_have_happened_is_asked_for_again_with_a_message_id() -> None:
    replies = itertools.chain([Reply(0, b"")], itertools.repeat(None))
    with pretending(lambda asked: next(replies) or published(asked)) as api:
        assert asking(api, "publish", "news", "hi", "--message-id", "1") == (0, "", "")
    assert [asked.body["message_id"] for asked in api.asked] == ["1", "1"]


def test_lines_have_message_ids_by_their_number() -> None:
    with pretending() as api:
        assert fed(b"a\nb\n", api, "--message-id", "import").status == 0
    assert [one["message_id"] for asked in api.asked for one in messages(asked)] == ["import-1", "import-2"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (problem(401, "not_authenticated", "no such key"), "refuses the API key from WSBROKER_API_KEY: no such key"),
        (problem(403, "not_permitted", "the key lacks the scope publish"), "may not do this: the key lacks the scope"),
        (problem(422, "bad_channel", "not a channel name"), "not a channel name"),
        (
            Reply(502, b"<html>Bad Gateway</html>", "text/html"),
            "answers 502 with text/html, which is not the broker's API",
        ),
        (Reply(200, b"<html>hi</html>", "text/html"), "answers 200 with text/html, which is not the broker's API"),
        (Reply(301, b"", "text/html", (("Location", "https://x.test/"),)), "on to https://x.test/"),
        (problem(422, "x", "\x1b[2J red"), "\\x1b[2J red"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_and_where(reply: Reply, said: str) -> None:
    with pretending(lambda _: reply) as api:
        result = asking(api, "publish", "news", "hi")
    assert result.status == CANNOT
    assert result.one_line.startswith(f"{api.url}: ")
    assert said in result.one_line
    assert KEY not in result.errors
    assert len(api.asked) == 1


def test_nobody_at_the_address_is_said_with_what_to_do() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run("publish", "news", "hi", "--api-url", url, WSBROKER_API_KEY=KEY)
    assert result.status == CANNOT
    assert result.one_line.startswith(f"{url}: nobody listens there")
    assert "ws-broker serve --dev" in result.one_line


def test_an_unknown_host_is_said() -> None:
    result = run("publish", "news", "hi", "--api-url", "http://broker.invalid:8001", WSBROKER_API_KEY=KEY)
    assert result.status == CANNOT
    assert "this host name is not known" in result.one_line


def test_https_to_a_port_without_tls_says_so() -> None:
    with pretending() as api:
        url = api.url.replace("http:", "https:")
        result = run("publish", "news", "hi", "--api-url", url, WSBROKER_API_KEY=KEY)
    assert result.status == CANNOT
    assert f"if the port speaks no TLS, write {api.url}" in result.one_line


def test_without_a_key_it_says_where_one_comes_from(tmp_path: Path) -> None:
    with pretending() as api:
        result = run("publish", "news", "hi", "--api-url", api.url, XDG_RUNTIME_DIR=str(tmp_path))
    assert result.status == CANNOT
    assert "set WSBROKER_API_KEY" in result.one_line
    assert api.asked == []


def test_a_key_comes_from_a_file_and_wins_over_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("wsb_other\n")
    with pretending() as api:
        assert asking(api, "publish", "news", "hi", "--api-key-file", str(file)).status == 0
    assert api.asked[0].authorization == "Bearer wsb_other"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["news"], "give one MESSAGE"),
        (["news", "hi", "--file", "x"], "give one MESSAGE"),
        (["news", "hi", "--json", "--base64"], "exclude each other"),
        (["news", "hi", "--binary"], "goes with --file"),
        (["news", "{", "--json"], "is not JSON"),
        (["news", "hi", "--api-url", "localhost:8001"], "is not http://HOST:PORT"),
        (["news", "hi", "--api-url", "http://me:secret@x"], "no user and no password in a URL"),
        (["news", "hi", "--api-key-file", "/nowhere"], "no such file"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(arguments: list[str], said: str) -> None:
    with pretending() as api:
        result = asking(api, "publish", *arguments)
    assert result.status == USAGE
    assert said in result.errors
    assert "secret" not in result.errors
    assert api.asked == []


def test_a_key_with_a_line_end_in_it_is_refused_and_not_shown() -> None:
    result = run("publish", "news", "hi", WSBROKER_API_KEY="wsb_a\r\nX-Evil: 1")
    assert result.status == USAGE
    assert result.one_line.startswith("WSBROKER_API_KEY: holds characters that no key")
    assert "Evil" not in result.errors


def test_a_reader_of_the_results_that_has_had_enough_ends_it_cleanly() -> None:
    with pretending() as api:
        done = subprocess.run(
            f"seq 100 | {' '.join(COMMAND)} publish news - --result | head -1; echo ${{PIPESTATUS[1]}}",
            shell=True,
            executable="/bin/bash",
            env=environment(**api.environment),
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
            text=True,
        )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_full_disk_under_the_results_is_one_line() -> None:
    with pretending() as api, open(os.devnull.replace("null", "full"), "wb") as full:
        done = subprocess.run(
            [*COMMAND, "publish", "news", "hi", "--result"],
            env=environment(**api.environment),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        CANNOT,
        "ws-broker: cannot write to standard output: No space left on device\n",
    )
