"""How a connection is told no: whole HTTP responses, Close payloads, and the choice between the two."""

import json

import pytest

from broker.gateway import refusals
from broker.gateway.refusals import (
    CAUSE_OF,
    CAUSE_WORDS,
    WINDOW_SECONDS,
    Rate,
    Refusals,
    close_payload,
    native_closes,
    problem,
    response,
)
from broker.native._connection import CAUSES, FIRST_POLICY_CAUSE_INDEX
from broker.native._counters import NAMES
from broker.native._frames import FAILURES
from broker.protocol.close_codes import BY_WORD, NEVER_SENT


def read(data: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert len(headers) == len(fields)
    assert line.startswith("HTTP/1.1 ")
    return int(line.split(" ")[1]), headers, body


def test_a_response_says_its_length_and_that_nothing_follows() -> None:
    status, headers, body = read(response(200, b"ok\n", (("Content-Type", "text/plain"),)))
    assert (status, body) == (200, b"ok\n")
    assert headers == {"Content-Length": "3", "Connection": "close", "Content-Type": "text/plain"}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 414, 426, 431, 500, 503, 505])
def test_a_refusal_is_a_problem_document(status: int) -> None:
    answered, headers, body = read(problem(status, "what to do", "a_word"))
    document = json.loads(body)
    assert answered == document["status"] == status
    assert headers["Content-Type"] == "application/problem+json"
    assert (document["detail"], document["code"]) == ("what to do", "a_word")
    assert document["title"]


def test_what_is_not_known_is_left_out_of_a_problem_document() -> None:
    assert set(json.loads(read(problem(404, None))[2])) == {"title", "status"}


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (405, {"Allow": "GET"}),
        (426, {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}),
        (503, {"Retry-After": "5"}),
    ],
)
def test_a_refusal_carries_the_headers_that_its_status_asks_for(status: int, wanted: dict[str, str]) -> None:
    assert wanted.items() <= read(problem(status, None))[1].items()


def test_a_close_carries_code_word_pause_and_text() -> None:
    row = BY_WORD["rate_limited"]
    assert close_payload(row) == b"\x10\x21code=rate_limited;too much in too short a time"
    assert close_payload(row, 250, "slow down") == b"\x10\x21code=rate_limited;in_ms=250;slow down"


@pytest.mark.parametrize("word", BY_WORD)
def test_every_close_fits_a_control_frame_even_with_a_long_text(word: str) -> None:
    assert len(close_payload(BY_WORD[word], 60_000, "ü" * 200)) <= 125


def test_every_policy_close_has_a_counter_of_its_own() -> None:
    policy = set(CAUSE_OF.values()) - {CAUSES.index("rate_limited")}  # that one the native core finds too
    assert len(policy) == len(CAUSE_WORDS)
    assert min(policy) == FIRST_POLICY_CAUSE_INDEX
    for word, index in CAUSE_OF.items():
        assert f"n_closed_{index}" in NAMES, word


def test_what_the_native_core_finds_by_itself_is_a_row_of_the_table() -> None:
    closes = native_closes()
    assert len(closes) == len(CAUSES)
    for cause in ("message_timeout", "pong_timeout", "write_timeout", "too_slow", "memory", "callback_error"):
        payload = closes[CAUSES.index(cause)]
        code, reason = int.from_bytes(payload[:2]), payload[2:].decode()
        row = BY_WORD[reason.removeprefix("code=").split(";")[0]]
        assert (row.code, code in NEVER_SENT) == (code, False)
    for code, word, text in FAILURES[1:]:
        assert closes[CAUSES.index(word)] == close_payload(BY_WORD[word]), text
        assert BY_WORD[word].code == code
    assert read(closes[CAUSES.index("full")])[0] == 503


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_events_of_one_key_are_counted_apart_from_others() -> None:
    rate = Rate(Clock())
    assert [rate.count("a"), rate.count("a"), rate.count("b"), rate.count("a")] == [1, 2, 1, 3]


def test_a_minute_after_the_first_event_counting_begins_anew() -> None:
    clock = Clock()
    rate = Rate(clock)
    rate.count("a")
    clock.now += WINDOW_SECONDS - 0.1
    assert rate.count("a") == 2
    clock.now += 0.1
    assert rate.count("a") == 1


def test_ever_new_addresses_do_not_fill_the_memory_and_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_ADDRESSES", 10)
    rate = Rate(Clock())
    for number in range(1000):
        rate.count(str(number))
        assert len(rate._seen) <= 10
    assert rate.count("999") == 2
    assert rate.count("0") == 1


def test_an_address_that_stays_busy_is_not_forgotten_for_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_ADDRESSES", 10)
    rate = Rate(Clock())
    for number in range(100):
        assert rate.count("busy") == number + 1
        rate.count(str(number))


def chooser(style: str = "auto", per_minute: int = 3) -> Refusals:
    return Refusals(style, per_minute, 1.0, 3.0)


BROWSER, PROGRAM = b"http://localhost", None


@pytest.mark.parametrize(
    ("style", "origin", "readable"),
    [
        ("auto", BROWSER, True),
        ("auto", PROGRAM, False),
        ("close", BROWSER, True),
        ("close", PROGRAM, True),
        ("http", BROWSER, False),
        ("http", PROGRAM, False),
    ],
)
def test_browsers_get_a_close_they_can_read_and_programs_a_status(
    style: str, origin: bytes | None, readable: bool
) -> None:
    assert chooser(style).readable(origin, True, b"news", "192.0.2.7") is readable


@pytest.mark.parametrize("style", ["auto", "close"])
def test_a_browser_would_fail_an_answer_without_the_protocol_it_offered(style: str) -> None:
    assert not chooser(style).readable(BROWSER, True, None, "192.0.2.7")
    assert chooser(style).readable(BROWSER, False, None, "192.0.2.7")


def test_an_address_that_is_refused_too_often_gets_plain_statuses_and_others_do_not() -> None:
    choose = chooser(per_minute=3)
    answers = [choose.readable(BROWSER, True, b"news", "192.0.2.7") for _ in range(5)]
    assert answers == [True, True, True, False, False]
    assert choose.readable(BROWSER, True, b"news", "192.0.2.8")


def test_a_close_is_held_back_for_a_time_between_the_two_bounds() -> None:
    held = [chooser().hold_seconds() for _ in range(200)]
    assert min(held) >= 1.0
    assert max(held) <= 3.0
    assert len(set(held)) > 100  # reconnecting pages must not come back together
