"""What the reactor calls: each event goes where it belongs, whatever fails closes one connection and is said once."""

import asyncio
import json
from typing import Any, cast

import pytest

from broker.auth.identity import ANONYMOUS, Identity
from broker.config.schema import Limits
from broker.gateway.addresses import Addresses
from broker.gateway.admission import Admission
from broker.gateway.commands import Commands
from broker.gateway.gateway import TOO_SLOW_AGAIN, Gateway
from broker.gateway.opening import Opening
from broker.gateway.refusals import CAUSE_OF, cause_word, served
from broker.gateway.session import Session
from broker.gateway.sessionlog import SessionLog
from broker.native._connection import CAUSES
from broker.native._counters import SIZE
from broker.native._reactor import Reactor
from broker.native._request import Request, parse
from broker.node import Channel
from tests.integration.harness import request
from tests.log_lines import lines
from tests.unit.gateway.fakes import CONN, FakeReactor, as_reactor, upgrade

PAGES = {b"/": served(b"the page", (), '"1"')}


class FakeOpening:
    """Admits, refuses to, waits or fails, as told."""

    def __init__(self) -> None:
        self.opened: list[Request] = []
        self.allowed = True
        self.waits: asyncio.Future[None] | None = None
        self.fails: Exception | None = None

    def origin_allowed(self, request: Request) -> bool:
        return self.allowed

    async def open(self, conn: int, request: Request) -> None:
        self.opened.append(request)
        if self.waits is not None:
            await self.waits
        if self.fails is not None:
            raise self.fails


class FakeCommands:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.waits: asyncio.Future[None] | None = None
        self.fails: Exception | None = None

    async def run(self, conn: int, session: Session, payload: bytes) -> None:
        await self._command("json", conn, session, payload)

    async def publish_raw(self, conn: int, session: Session, payload: bytes, text: bool) -> None:
        await self._command("raw", conn, session, payload, text)

    async def _command(self, *call: object) -> None:
        self.calls.append(call)
        if self.waits is not None:
            await self.waits
        if self.fails is not None:
            raise self.fails

    def close(self, conn: int, word: str, text: str | None = None) -> None:
        self.calls.append(("close", conn, word, text))

    def ended(self, session: Session) -> None:
        self.calls.append(("ended", session.id))


class Parts:
    """A gateway and what it works with."""

    def __init__(self) -> None:
        self.reactor, self.opening, self.commands = FakeReactor(), FakeOpening(), FakeCommands()
        self.gateway = Gateway(PAGES, 5.0)
        self.gateway.reactor = as_reactor(self.reactor)
        self.gateway.opening = cast("Opening", self.opening)
        self.gateway.commands = cast("Commands", self.commands)
        table = memoryview(bytearray(8 * SIZE)).cast("Q")
        self.gateway.admission = Admission(
            self.gateway.reactor, Limits(), Addresses((), "peer"), table, total=lambda: 0
        )

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def answer(self) -> tuple[int, str]:
        """Status of the one HTTP answer, and the cause it is counted under."""
        response, cause = self.reactor.only("respond")
        return int(response.split(b" ")[1]), cause


@pytest.fixture
def parts() -> Parts:
    return Parts()


JSON_SESSION = Session("s", True, b"")
RAW_SESSION = Session("s", False, b"", ANONYMOUS, Channel(b"news", 0, 0))
DEAF_SESSION = Session("s", False, b"")


def get(path: str, method: str = "GET") -> Request:
    return parse(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def test_a_page_is_answered_as_it_was_given(parts: Parts) -> None:
    parts.gateway.on_request(CONN, get("/"))
    assert parts.reactor.only("respond") == (PAGES[b"/"].whole, "answered")


def test_a_browser_that_has_the_file_is_not_sent_it_again() -> None:
    page = PAGES[b"/"]
    for known in (b'"1"', b'W/"1"', b'"0", "1"', b"*"):
        assert page.answer(known) == page.unchanged
    for other in (None, b"", b'"2"', b"1"):
        assert page.answer(other) == page.whole
    head = b'Content-Length: 8\r\nConnection: close\r\nETag: "1"\r\n\r\n'
    assert page.whole == b"HTTP/1.1 200 OK\r\n" + head + b"the page"
    assert page.unchanged == b"HTTP/1.1 304 Not Modified\r\n" + head


def test_health_is_answered_without_anything_else_working(parts: Parts) -> None:
    parts.gateway.on_request(CONN, get("/healthz"))
    response, cause = parts.reactor.only("respond")
    assert (response[-3:], cause) == (b"ok\n", "answered")


@pytest.mark.parametrize(
    ("head", "status", "cause"),
    [
        (get("/nothing"), 404, "answered"),
        (get("/ws"), 426, "answered"),
        (get("/", "POST"), 405, "bad_request"),
        (parse(request("/other")), 404, "bad_request"),
        (parse(request(sec_websocket_version="8")), 426, "bad_request"),
        (parse(request(sec_websocket_key="x")), 400, "bad_request"),
    ],
)
def test_what_is_no_handshake_here_gets_its_status(parts: Parts, head: Request, status: int, cause: str) -> None:
    parts.gateway.on_request(CONN, head)
    assert parts.answer() == (status, cause)
    assert parts.opening.opened == []


@pytest.mark.parametrize("status", [400, 414, 431])
def test_bytes_that_are_no_request_get_the_status_that_was_found(parts: Parts, status: int) -> None:
    parts.gateway.on_malformed(CONN, status, False)
    assert parts.answer() == (status, "bad_request")


@pytest.mark.parametrize("status", [400, 414, 431])
def test_a_head_request_that_nobody_could_parse_gets_no_body(parts: Parts, status: int) -> None:
    parts.gateway.on_malformed(CONN, status, True)
    response, _ = parts.reactor.only("respond")
    assert response.startswith(f"HTTP/1.1 {status} ".encode())
    assert response.index(b"\r\n\r\n") == len(response) - 4


def test_a_page_of_another_site_is_refused_before_anything_is_decided(parts: Parts) -> None:
    parts.opening.allowed = False
    parts.gateway.on_request(CONN, upgrade("news"))
    assert parts.answer() == (403, "bad_request")
    assert parts.opening.opened == []


def test_a_handshake_is_brought_before_the_opening(parts: Parts) -> None:
    head = upgrade("news", "/ws?channel=room")
    parts.gateway.on_request(CONN, head)
    assert parts.opening.opened == [head]
    assert parts.reactor.calls == []


def test_an_opening_that_fails_at_once_is_a_500_and_raised_for_the_reactor_to_count(parts: Parts) -> None:
    parts.opening.fails = LookupError("a bug")
    with pytest.raises(LookupError):
        parts.gateway.on_request(CONN, upgrade("news"))
    assert parts.answer() == (500, "callback_error")


async def test_an_opening_that_fails_late_is_a_500_and_reported_once(parts: Parts) -> None:
    parts.opening.waits = asyncio.get_running_loop().create_future()
    parts.opening.fails = LookupError("a bug")
    parts.gateway.on_request(CONN, upgrade("news"))
    parts.opening.waits.set_result(None)
    await parts.settle()
    reported, answered = parts.reactor.calls
    assert (reported.verb, reported.given) == ("report", (parts.opening.fails,))
    assert (answered.verb, answered.given[0].split(b" ")[1]) == ("respond", b"500")
    assert b"a bug" not in answered.given[0]


async def test_an_opening_that_fails_after_its_101_closes_with_1011(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.reactor, "respond", lambda *given: False)
    parts.opening.fails = LookupError("a bug")
    with pytest.raises(LookupError):
        parts.gateway.on_request(CONN, upgrade("news"))
    payload, cause = parts.reactor.only("close")
    assert (int.from_bytes(payload[:2]), cause) == (1011, "callback_error")


async def test_a_worker_that_ends_waits_for_no_decision(parts: Parts) -> None:
    parts.opening.waits = asyncio.get_running_loop().create_future()
    parts.gateway.on_request(CONN, upgrade("news"))
    await asyncio.sleep(0)
    parts.gateway.cancel_all()
    await parts.settle()
    assert parts.opening.waits.cancelled()
    assert parts.reactor.calls == []


def test_a_command_that_is_done_at_once_lets_the_next_one_come(parts: Parts) -> None:
    assert parts.gateway.on_message(CONN, JSON_SESSION, b"{}", True) is False
    assert parts.gateway.on_message(CONN, RAW_SESSION, b"x", False) is False
    assert parts.commands.calls == [("json", CONN, JSON_SESSION, b"{}"), ("raw", CONN, RAW_SESSION, b"x", False)]
    assert parts.reactor.calls == []


@pytest.mark.parametrize("session", [JSON_SESSION, RAW_SESSION], ids=["json", "raw"])
async def test_input_waits_for_a_command_that_waits_and_goes_on_after_it(parts: Parts, session: Session) -> None:
    parts.commands.waits = asyncio.get_running_loop().create_future()
    assert parts.gateway.on_message(CONN, session, b"{}", True) is True
    await parts.settle()
    assert parts.reactor.calls == []
    parts.commands.waits.set_result(None)
    await parts.settle()
    assert parts.reactor.only("resume") == ()


async def test_a_command_that_fails_late_closes_its_connection_and_is_reported_once(parts: Parts) -> None:
    parts.commands.waits = asyncio.get_running_loop().create_future()
    parts.commands.fails = LookupError("a bug")
    parts.gateway.on_message(CONN, JSON_SESSION, b"{}", True)
    parts.commands.waits.set_result(None)
    await parts.settle()
    assert [call.verb for call in parts.reactor.calls] == ["report", "close", "resume"]
    payload, cause = parts.reactor.calls[1].given
    assert payload == b"\x03\xf3code=internal_error;the server made a mistake"
    assert cause == "callback_error"


async def test_a_command_whose_client_left_meanwhile_ends_in_peace(parts: Parts) -> None:
    parts.commands.waits = asyncio.get_running_loop().create_future()
    parts.gateway.on_message(CONN, JSON_SESSION, b"{}", True)
    parts.reactor.here.clear()
    parts.commands.waits.set_result(None)
    await parts.settle()
    assert parts.reactor.calls == []


def test_a_command_that_fails_at_once_is_the_reactors_to_count(parts: Parts) -> None:
    parts.commands.fails = LookupError("a bug")
    with pytest.raises(LookupError):
        parts.gateway.on_message(CONN, JSON_SESSION, b"{}", True)
    assert parts.reactor.calls == []


def test_a_binary_frame_in_the_json_format_closes(parts: Parts) -> None:
    assert parts.gateway.on_message(CONN, JSON_SESSION, b"{}", False) is False
    assert parts.commands.calls == [("close", CONN, "unsupported_data", None)]


@pytest.mark.parametrize("session", [None, DEAF_SESSION], ids=["of the native core", "of Python"])
def test_a_message_that_nothing_takes_closes_with_the_reason(parts: Parts, session: object) -> None:
    assert parts.gateway.on_message(CONN, session, b"to whom?", True) is False
    assert parts.commands.calls == [("close", CONN, "cannot_publish", None)]


def test_a_payload_that_does_not_fit_closes_with_the_place(parts: Parts) -> None:
    parts.gateway.on_bad_payload(CONN, None, "json_depth", 17)
    assert parts.commands.calls == [("close", CONN, "bad_payload", "json_depth at byte 17")]


def test_who_is_too_slow_comes_back_now_and_after_the_third_time_later(parts: Parts) -> None:
    codes = [int.from_bytes(parts.gateway.on_too_slow(CONN, None)[:2]) for _ in range(TOO_SLOW_AGAIN + 1)]
    assert codes == [4208, 4208, 4108, 4108]
    parts.reactor.peer = "192.0.2.8"
    assert parts.gateway.on_too_slow(CONN, None)[:2] == (4208).to_bytes(2)


def test_a_user_behind_the_address_of_many_is_not_counted_with_them(parts: Parts) -> None:
    ann, bob = (Session("s", True, b"", Identity(user)) for user in ("ann", "bob"))
    heard = [int.from_bytes(parts.gateway.on_too_slow(CONN, session)[:2]) for session in (ann, bob, ann, bob, None)]
    assert heard == [4208] * 5


def test_a_user_is_counted_wherever_it_comes_from(parts: Parts) -> None:
    codes = []
    for number in range(TOO_SLOW_AGAIN):
        parts.reactor.peer = f"192.0.2.{number}"
        codes.append(int.from_bytes(parts.gateway.on_too_slow(CONN, Session("s", True, b"", Identity("ann")))[:2]))
    assert codes == [4208, 4208, 4108]


def test_a_user_who_is_named_like_an_address_is_not_taken_for_it(parts: Parts) -> None:
    for _ in range(TOO_SLOW_AGAIN):
        parts.gateway.on_too_slow(CONN, None)
    assert parts.reactor.peer is not None
    namesake = Session("s", True, b"", Identity(parts.reactor.peer))
    assert parts.gateway.on_too_slow(CONN, namesake)[:2] == (4208).to_bytes(2)


def test_an_error_is_logged_once_with_its_traceback(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise LookupError("a bug")
    except LookupError as error:
        parts.gateway.on_error(error)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None


def test_the_end_of_a_session_is_logged_by_its_cause(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    parts.gateway.opening.sessions = SessionLog(cast(Reactor, parts.reactor), access=False)
    session = Session("s", True, b"", Identity("ann"))
    with caplog.at_level("DEBUG"):
        parts.gateway.on_closed(CONN, session, CAUSES.index("peer_closed"))
        parts.gateway.on_closed(CONN, session, CAUSE_OF["going_away"])
        parts.gateway.on_closed(CONN, session, 255)
    assert [(line["event"], line["cause"], line["code"]) for line in lines(caplog.text)] == [
        ("session ended", "peer_closed", None),
        ("session ended", "going_away", 1001),
        ("session ended", "cause 255", None),
    ]
    assert "ann" not in caplog.text, "users are of the access log only"


def test_the_end_of_the_process_has_a_close_for_sessions_and_a_503_for_handshakes(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[bytes, int, bytes]] = []

    def close_all(payload: bytes, cause: int, response: bytes) -> int:
        given.append((payload, cause, response))
        return 3

    monkeypatch.setattr(parts.reactor, "close_all", close_all, raising=False)
    assert parts.gateway.close_all("going_away") == 3
    ((payload, cause, response),) = given
    assert cause_word(cause) == "going_away"
    assert payload == b"\x03\xe9code=going_away;the server process ends"
    assert response.startswith(b"HTTP/1.1 503 ")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "going_away"


def test_a_crowd_whose_messages_were_lost_is_ended_at_the_pace_at_which_it_may_come_back(parts: Parts) -> None:
    parts.reactor.here.update(range(1000))
    parts.gateway.end(list(range(1000)), "service_restart")
    ends = [call.given for call in parts.reactor.calls]
    assert {(payload[:2], cause) for payload, cause, _ in ends} == {((1012).to_bytes(2), "service_restart")}
    seconds = sorted(when for *_, when in ends)
    assert seconds[0] >= 0
    assert seconds[-1] <= 0.5, "2000 a second"
    assert 350 < sum(when < 0.25 for when in seconds) < 650, "evenly"
