"""A line of the log: one form for whoever says it, bounded, escaped, without secrets, and not too many of them."""

import asyncio
import io
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import log
from broker.config.schema import Log
from broker.log.lines import MEMBERS, redact
from broker.log.rate import Limiter, Suppressed
from tests.fake_clock import FakeClock
from tests.log_lines import Line, lines

logger = log.get_logger("broker.test")
free = log.get_logger("broker.free", limited=False)

Begin = Callable[..., io.StringIO]


@pytest.fixture
def begin(clock: FakeClock) -> Iterator[Begin]:
    begun: list[log.Log] = []

    def configured(**settings: object) -> io.StringIO:
        out = io.StringIO()
        begun.append(log.configure("worker 1", Log(**settings), out, clock.time))  # type: ignore[arg-type]
        return out

    yield configured
    for one in begun:
        one.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def only(out: io.StringIO) -> Line:
    (line,) = lines(out.getvalue())
    return line


def test_a_line_says_when_what_who_and_with_what(begin: Begin) -> None:
    out = begin()
    logger.info("child died", child="worker 3", seconds=1.5, changed=["a", "b"], nothing=None, yes=True)
    line = only(out)
    assert tuple(line)[: len(MEMBERS)] == MEMBERS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert [line[name] for name in MEMBERS[1:]] == ["info", "child died", "broker.test", "worker 1", os.getpid()]
    assert (line["child"], line["seconds"], line["changed"]) == ("worker 3", 1.5, ["a", "b"])
    assert (line["nothing"], line["yes"]) == (None, True)


def test_a_library_speaks_in_the_same_form(begin: Begin) -> None:
    out = begin()
    logging.getLogger("uvicorn.error").warning("Invalid %s\r\n%s", "request", "forged")
    line = only(out)
    assert (line["event"], line["logger"], line["process"]) == (
        "Invalid request\r\nforged",
        "uvicorn.error",
        "worker 1",
    )


def test_a_warning_of_python_is_a_line_too(begin: Begin) -> None:
    out = begin()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.configure("worker 1", Log(), out)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert only(out)["logger"] == "py.warnings"


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_field_can_begin_a_line_or_colour_a_terminal(form: str, begin: Begin) -> None:
    out = begin(format=form)
    logger.warning("event", value="a\nERROR forged\r\x1b[31m\x07\x7f\x9b31m\u2028\u202e", values=["\x1b[2J"])
    text = out.getvalue()
    assert text.count("\n") == 1
    assert re.fullmatch(r"[\x20-\x7e]+\n", text)


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_told_whole_and_forges_no_line(form: str, begin: Begin) -> None:
    out = begin(format=form)
    try:
        raise ValueError("first\n2026-11-24T20:03:33.261Z [error    ] forged\x1b[31m")
    except ValueError:
        logger.exception("failed")
    text = out.getvalue()
    assert "\x1b" not in text
    if form == "json":
        line = only(out)
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):\n")
    else:
        first, *rest = text.splitlines()
        assert "failed" in first
        assert rest
        assert all(one.startswith("    ") for one in rest)


def test_a_long_text_is_cut_an_exception_at_its_beginning(begin: Begin) -> None:
    out = begin()
    try:
        raise ValueError("x" * 100_000 + "the end")
    except ValueError:
        logger.exception("failed", value="y" * 100_000)
    line = only(out)
    assert len(out.getvalue()) < 20_000
    assert line["exception"].endswith("the end")
    assert line["value"] == "y" * 2048 + "..."


def test_what_has_no_text_costs_its_line_only(begin: Begin) -> None:
    class Textless:
        def __str__(self) -> str:
            raise RuntimeError("s3cret")

    out = begin()
    logger.info("first", value=Textless())
    logger.info("second")
    assert [line["event"] for line in lines(out.getvalue())] == ["log line could not be made", "second"]
    assert lines(out.getvalue())[0]["of"] == "first"
    assert "s3cret" not in out.getvalue()


JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (f"bearer.{JWT}", "bearer.[redacted]"),
        ("Authorization: Bearer s3cret, next", "Authorization: Bearer [redacted], next"),
        ("authorization: basic dXNlcjpwdw==", "authorization: basic [redacted]"),
        (f"a {JWT} b", "a [redacted] b"),
        ("GET /ws?token=s3cret&channel=news", "GET /ws?token=[redacted]&channel=news"),
        ("?access_token=s3cret", "?access_token=[redacted]"),
        ("wsb_abcDEF123-_abcDEF123", "[redacted]"),
        ("Cookie: sid=s3cret", "Cookie: [redacted]"),
        ("a token of ann; the bearer left", "a token of ann; the bearer [redacted]"),
        ("drain.window_seconds", "drain.window_seconds"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_cut_out(text: str, safe: str, begin: Begin) -> None:
    assert redact(text) == safe
    out = begin()
    logging.getLogger("library").warning("%s", text)
    logger.info("event", value=text, values=[text], table={"a": text})
    first, second = lines(out.getvalue())
    assert first["event"] == safe
    assert (second["value"], second["values"], second["table"]) == (safe, [safe], {"a": safe})


def test_the_exception_of_a_library_holds_no_token(begin: Begin) -> None:
    out = begin()
    try:
        raise ValueError(f"bearer.{JWT}")
    except ValueError:
        logging.getLogger("library").exception("failed")
    assert JWT not in out.getvalue()
    assert "bearer.[redacted]" in only(out)["exception"]


# Levels, formats and their changes.


def test_libraries_tell_no_details_even_at_debug(begin: Begin) -> None:
    out = begin(level="debug")
    logging.getLogger("httpcore.http11").debug("header: s3cret")
    logger.debug("ours")
    assert only(out)["event"] == "ours"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_access_log_is_written_whatever_the_level_of_the_rest(level: str, begin: Begin) -> None:
    out = begin(level=level, access=True)
    log.get_logger(log.ACCESS, limited=False).info("session opened")
    logger.info("other")
    assert [line["event"] for line in lines(out.getvalue())] == ["session opened"] + ["other"] * (
        level in ("debug", "info")
    )


def test_a_reload_changes_level_format_and_rate_at_once(begin: Begin, clock: FakeClock) -> None:
    out = begin(level="warning", lines_per_second=100)
    logger.info("unheard")
    log.use(Log(level="info", format="console", lines_per_second=1))
    logger.info("heard", number=1)
    clock.now += 1
    logger.info("heard", number=2)
    logger.info("heard", number=3)
    first, second = out.getvalue().splitlines()
    assert "[info     ] heard" in first
    assert "number=2" in second
    log.use(Log(level="error"))
    logger.warning("unheard")
    assert len(out.getvalue().splitlines()) == 2


def test_on_a_terminal_auto_is_for_people_and_for_machines_anywhere_else(begin: Begin, clock: FakeClock) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    logger_lines = begin()
    logger.info("event")
    assert json.loads(logger_lines.getvalue())["event"] == "event"
    for environment, coloured in (({}, True), ({"NO_COLOR": ""}, False)):
        terminal = Terminal()
        begun = log.configure("broker", Log(), terminal, clock.time, environment)
        logger.info("event", child="worker 1")
        begun.close()
        assert ("\x1b[" in terminal.getvalue()) is coloured
        assert "event" in terminal.getvalue()
        assert not terminal.getvalue().startswith("{")


def test_the_journal_is_told_the_priority_and_nobody_else_is(clock: FakeClock) -> None:
    with tempfile.TemporaryFile("w+") as journal:
        status = os.fstat(journal.fileno())
        for stream, prefix in ((f"{status.st_dev}:{status.st_ino}", ["<6>", "<4>", "<3>"]), ("1:2", ["", "", ""])):
            journal.seek(0)
            journal.truncate()
            begun = log.configure("broker", Log(), journal, clock.time, {"JOURNAL_STREAM": stream})
            logger.info("a")
            logger.warning("b")
            logger.error("c")
            begun.close()
            journal.seek(0)
            assert [line.partition("{")[0] for line in journal] == prefix


def test_the_end_of_the_log_leaves_logging_as_it_was(clock: FakeClock) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger("broker").level, sys.excepthook
    log.configure("broker", Log(level="debug"), io.StringIO(), clock.time).close()
    assert (logging.getLogger().handlers, logging.getLogger("broker").level, sys.excepthook) == before


def test_a_standard_error_that_is_gone_ends_nobody(clock: FakeClock) -> None:
    out = io.StringIO()
    begun = log.configure("broker", Log(), out, clock.time)
    out.close()
    logger.error("unheard")
    with Path("/dev/full").open("w") as full:
        begun = log.configure("broker", Log(), full, clock.time)
        logger.error("unheard")
        begun.close()
        full.buffer.raw.close()  # type: ignore[attr-defined]  # what could not be written is not tried again


# The rate.


def test_lines_of_one_kind_are_limited_and_their_number_is_said_when_the_flood_is_over(
    begin: Begin, clock: FakeClock
) -> None:
    out = begin(lines_per_second=3)
    counted: list[None] = []
    log.count_suppressed(lambda: counted.append(None))
    for number in range(10):
        logger.warning("flood", number=number)
        logger.info("other", number=0) if number == 0 else None
    assert [line["event"] for line in lines(out.getvalue())] == ["flood", "other", "flood", "flood"]
    assert len(counted) == 7
    log.tell_suppressed()
    assert len(lines(out.getvalue())) == 4, "it may go on"
    clock.now += 1.0
    log.tell_suppressed()
    log.tell_suppressed()
    told = lines(out.getvalue())[4:]
    assert [(line["event"], line["level"], line["of"], line["lines"]) for line in told] == [
        ("log lines suppressed", "warning", "flood", 7)
    ]
    logger.warning("flood", number=10)
    assert lines(out.getvalue())[-1]["number"] == 10


def test_a_flood_that_does_not_end_is_told_of_now_and_then(clock: FakeClock) -> None:
    limiter = Limiter(10, clock.time)
    told: list[Suppressed] = []
    taken = 0
    for _ in range(2_500):  # 100 a second
        taken += limiter.take("flood")
        told += limiter.due()
        clock.now += 0.01
    assert [one.of for one in told] == ["flood"] * 2
    assert taken + sum(one.lines for one in told) + limiter.due(at_the_end=True)[0].lines == 2_500
    assert 255 <= taken <= 265, "25 seconds, and what was there at first"


def test_what_was_suppressed_last_is_said_at_the_end(begin: Begin) -> None:
    out = begin(lines_per_second=1)
    for _ in range(5):
        logger.warning("flood")
    begin()
    assert [(line["of"], line["lines"]) for line in lines(out.getvalue())[1:]] == [("flood", 4)]


def test_what_only_an_operator_can_cause_is_never_suppressed(begin: Begin) -> None:
    out = begin(lines_per_second=1)
    for number in range(50):
        free.error("reload refused", number=number)
    assert [line["number"] for line in lines(out.getvalue())] == list(range(50))


def test_a_library_is_limited_by_the_place_where_it_speaks(begin: Begin, clock: FakeClock) -> None:
    out = begin(lines_per_second=2)
    library = logging.getLogger("uvicorn.error")
    for number in range(10):
        library.warning(f"client {number}")
    library.warning("another place")
    assert [line["event"] for line in lines(out.getvalue())] == ["client 0", "client 1", "another place"]
    clock.now += 1
    log.tell_suppressed()
    assert re.fullmatch(r"uvicorn\.error:\d+", lines(out.getvalue())[-1]["of"])


# What nobody caught.


def test_errors_that_nobody_caught_are_lines_of_the_log(begin: Begin) -> None:
    out = begin()
    try:
        raise RuntimeError("a bug")
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)
    line = only(out)
    assert (line["level"], line["event"]) == ("critical", "process ends by an error")
    assert line["exception"].endswith("RuntimeError: a bug")


async def test_a_task_that_asyncio_gives_up_is_a_line(begin: Begin) -> None:
    out = begin()
    asyncio.get_running_loop().call_exception_handler({"message": "Task was destroyed but it is pending!"})
    assert only(out)["logger"] == "asyncio"
