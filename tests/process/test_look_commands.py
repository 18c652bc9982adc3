"""`ws-broker channels`, `sessions`, `disconnect`: tables for people, lines for scripts, and 3 for nothing found."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.process.command import Result, run
from tests.process.pretended_api import KEY, Asked, PretendedApi, Reply, pretending, problem

CANNOT, USAGE, NOTHING = 1, 2, 3
SESSION = {"session": "s1", "user": "ann\x1b[2J", "address": "192.0.2.1", "format": "json", "channels": ["news"]}


def asking(api: PretendedApi, *arguments: str) -> Result:
    return run(*arguments, WSBROKER_API_URL=api.url, WSBROKER_API_KEY=KEY)


def test_channels_are_a_table_or_lines_of_json() -> None:
    found = [{"channel": "news", "subscriptions": 3}, {"channel": "room.42", "subscriptions": 12}]
    with pretending(lambda _: Reply(200, {"channels": found})) as api:
        assert asking(api, "channels", "--prefix", "r&x").output == (
            "CHANNEL  SUBSCRIPTIONS\nnews     3\nroom.42  12\n"
        )
        lines = asking(api, "channels", "--json").output.splitlines()
    assert [json.loads(line) for line in lines] == found
    assert [asked.path for asked in api.asked] == ["/v1/channels?prefix=r%26x", "/v1/channels"]


def test_a_user_cannot_drive_the_terminal_of_who_looks_at_the_sessions() -> None:
    with pretending(lambda _: Reply(200, {"sessions": [SESSION]})) as api:
        result = asking(api, "sessions", "--user", "ann")
    assert "ann\\x1b[2J" in result.output
    assert "\x1b" not in result.output


def test_names_cannot_leave_their_segment_of_the_path() -> None:
    with pretending(lambda _: Reply(200, {"disconnected": 2})) as api:
        assert asking(api, "disconnect", "--user", "a/../b?c").output == "2 sessions disconnected\n"
        assert asking(api, "disconnect", "s/1", "--json").output == '{"disconnected": 2}\n'
    assert [(asked.method, asked.path) for asked in api.asked] == [
        ("POST", "/v1/users/a%2F..%2Fb%3Fc/disconnect"),
        ("DELETE", "/v1/sessions/s%2F1"),
    ]


BUSY = {"channel": "news", "messages_per_second": 12.53, "deliveries_per_second": 3125.0, "subscriptions": 250}
SLOW = {"session": "s1", "user": None, "address": "192.0.2.1", "format": "raw"}
SLOW_NUMBERS = {"queued_bytes": 524288, "queued_messages": 512, "waiting_ms": 4210}


def load(channels: list[dict[str, Any]], sessions: list[dict[str, Any]]) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(
        200, {"channels": channels} if asked.path.startswith("/v1/top/channels") else {"sessions": sessions}
    )


def test_the_load_is_two_tables_or_lines_of_json() -> None:
    slow = {**SLOW, **SLOW_NUMBERS}
    with pretending(load([BUSY], [slow])) as api:
        assert asking(api, "top").output == (
            "CHANNEL  MESSAGES_PER_SECOND  DELIVERIES_PER_SECOND  SUBSCRIPTIONS\n"
            "news     12.5                 3125.0                 250\n"
            "\n"
            "SESSION  USER  ADDRESS    FORMAT  WAITING_MS  QUEUED_MESSAGES  QUEUED_BYTES\n"
            "s1       -     192.0.2.1  raw     4210        512              524288\n"
        )
        flags = ["--channels-by", "deliveries", "--sessions-by", "queued_bytes", "--most", "3", "--json"]
        lines = asking(api, "top", *flags).output.splitlines()
    assert [json.loads(line) for line in lines] == [BUSY, slow]
    assert [asked.path for asked in api.asked] == [
        "/v1/top/channels?by=messages&limit=10",
        "/v1/top/sessions?by=waiting_ms&limit=10",
        "/v1/top/channels?by=deliveries&limit=3",
        "/v1/top/sessions?by=queued_bytes&limit=3",
    ]


def test_that_everybody_reads_is_said_beside_the_table() -> None:
    with pretending(load([BUSY], [])) as api:
        result = asking(api, "top")
    assert result.output.startswith("CHANNEL ")
    assert result.one_line == "nothing waits for any session: all of them read"


@pytest.mark.parametrize(
    ("arguments", "reply", "status"),
    [
        (["top"], Reply(200, {"channels": [], "sessions": []}), NOTHING),
        (["top"], problem(403, "not_permitted", "lacks the scope admin"), CANNOT),
        (["channels"], Reply(200, {"channels": []}), NOTHING),
        (["sessions", "--user", "x"], Reply(200, {"sessions": []}), NOTHING),
        (["sessions", "x"], problem(404, "not_found", "no such session"), NOTHING),
        (["disconnect", "x"], problem(404, "not_found", "no such session"), NOTHING),
        (["disconnect", "--user", "x"], Reply(200, {"disconnected": 0}), NOTHING),
        (["sessions", "x"], Reply(404, b"<html>", "text/html"), CANNOT),
        (["channels"], problem(403, "not_permitted", "lacks the scope read"), CANNOT),
        (["channels"], Reply(200, []), CANNOT),
    ],
)
def test_nothing_found_is_told_from_trouble(arguments: list[str], reply: Reply, status: int) -> None:
    with pretending(lambda _: reply) as api:
        result = asking(api, *arguments)
    assert (result.status, result.output) == (status, "")
    assert result.one_line


def test_whom_it_is_about_has_to_be_said_in_one_way() -> None:
    assert run("disconnect").status == USAGE
    assert run("disconnect", "s1", "--user", "ann").status == USAGE
    assert run("sessions", "s1", "--user", "ann").status == USAGE


def test_that_there_are_more_sessions_than_are_shown_is_said_beside_them() -> None:
    with pretending(lambda _: Reply(200, {"sessions": [SESSION], "truncated": True})) as api:
        result = asking(api, "sessions", "--most", "1", "--json")
    assert (result.status, json.loads(result.output)) == (0, SESSION)
    assert result.one_line.startswith("there are more than these 1; --most N")
    assert [asked.path for asked in api.asked] == ["/v1/sessions?limit=1"]


@pytest.mark.parametrize("most", ["0", "1001", "x"])
def test_no_more_sessions_are_asked_for_than_the_api_gives(most: str) -> None:
    assert run("sessions", "--most", most).status == USAGE
