"""`ws-broker channels`, `sessions`, `disconnect`: tables for people, lines for scripts, and 3 for nothing found."""

import json

import pytest

from tests.process.command import Result, run
from tests.process.pretended_api import KEY, PretendedApi, Reply, pretending, problem

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


@pytest.mark.parametrize(
    ("arguments", "reply", "status"),
    [
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
