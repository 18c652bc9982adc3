"""What the reactor calls: requests, messages, ends. Sorts them to the opening, the commands and the pages.

The one implementation of the reactor's Handler. It decides nothing itself; it makes sure that whatever waits is found
again or found gone, and that an error closes one connection and is logged once.
"""

import random
from collections.abc import Mapping

from broker.gateway.addresses import address_key
from broker.gateway.admission import Admission
from broker.gateway.commands import Commands
from broker.gateway.driving import Driver
from broker.gateway.opening import Opening
from broker.gateway.refusals import CAUSE_OF, Rate, Served, close_payload, problem, response
from broker.gateway.session import Session
from broker.log import get_logger
from broker.native._connection import CAUSES
from broker.native._reactor import Reactor
from broker.native._request import Request
from broker.protocol.close_codes import BY_WORD

log = get_logger(__name__)

WEBSOCKET_PATH = b"/ws"

# A reader that was cut this often within a minute is told to come back later instead of now.
TOO_SLOW_AGAIN = 3

_ANSWERED = CAUSES.index("answered")
_BAD_REQUEST = CAUSES.index("bad_request")
_TOO_SLOW = CAUSES.index("too_slow")
_CALLBACK_ERROR = CAUSES.index("callback_error")


class Gateway:
    """`pages` maps a path to what is answered there. Set the attributes before the first turn.

    After `decision_seconds` nobody waits for a decision any more: the reactor has ended the connection by then.
    """

    reactor: Reactor
    opening: Opening
    commands: Commands
    admission: Admission

    def __init__(
        self,
        pages: Mapping[bytes, Served],
        decision_seconds: float,
        closes_per_second: int = 2000,
        chance: random.Random | None = None,
    ) -> None:
        self.closes_per_second = closes_per_second
        self._chance = chance or random.Random()
        self._decision_seconds = decision_seconds
        self._pages = pages
        self._healthy = response(200, b"ok\n", (("Content-Type", "text/plain; charset=utf-8"),))
        self._driver = Driver()
        self._slow = Rate()

    # Requests.

    def on_request(self, conn: int, request: Request) -> None:
        if request.status != 101:
            self._answer(conn, request)
        elif request.path != WEBSOCKET_PATH:
            self.admission.malformed(conn)
            self.reactor.respond(conn, problem(404, "the WebSocket is at /ws"), _BAD_REQUEST)
        elif (refusal := self.admission.refusal(conn, request)) is not None:
            self.reactor.respond(conn, *refusal)
        elif not self.opening.origin_allowed(request):
            self.admission.failed(conn)
            self.reactor.respond(conn, problem(403, "pages of this origin may not connect"), _BAD_REQUEST)
        else:
            try:
                self._driver.run(
                    self.opening.open(conn, request),
                    lambda error: self._opened_late(conn, error),
                    self._decision_seconds,
                )
            except Exception:
                self._cannot_open(conn)
                raise  # the reactor counts and reports it

    def _opened_late(self, conn: int, error: BaseException | None) -> None:
        if error is not None:
            self.reactor.report(error)
            self._cannot_open(conn)

    def _cannot_open(self, conn: int) -> None:
        """Whatever is not open yet is answered in HTTP, whatever is already is closed."""
        if not self.reactor.respond(conn, problem(500, None), _CALLBACK_ERROR):
            self.reactor.close(conn, close_payload(BY_WORD["internal_error"]), _CALLBACK_ERROR)

    def _answer(self, conn: int, request: Request) -> None:
        if request.status != 200:
            self._refuse(conn, problem(request.status, request.problem), request.head.startswith(b"HEAD "))
        elif request.path == b"/healthz":
            self.reactor.respond(conn, self._healthy, _ANSWERED)
        elif page := self._pages.get(request.path):
            self.reactor.respond(conn, page.answer(request.header(b"if-none-match")), _ANSWERED)
        elif request.path == WEBSOCKET_PATH:
            self.reactor.respond(conn, problem(426, "this is a WebSocket; connect with new WebSocket(url)"), _ANSWERED)
        else:
            self.reactor.respond(conn, problem(404, None), _ANSWERED)

    def on_malformed(self, conn: int, status: int, head_only: bool) -> None:
        self._refuse(conn, problem(status, None), head_only)

    def on_proxied(self, conn: int, peer: str | None, client: str | None) -> bool:
        return self.admission.proxied(conn, peer, client)

    def _refuse(self, conn: int, answer: bytes, head_only: bool) -> None:
        if head_only:  # the length alone: clients take a body for garbage (RFC 9110 9.3.2)
            answer = answer[: answer.index(b"\r\n\r\n") + 4]
        self.admission.malformed(conn)
        self.reactor.respond(conn, answer, _BAD_REQUEST)

    # Messages.

    def on_message(self, conn: int, session: object, payload: bytes, text: bool) -> bool:
        if not isinstance(session, Session):
            return self._no_target(conn)
        if session.json:
            if not text:
                self.commands.close(conn, "unsupported_data")
                return False
            command = self.commands.run(conn, session, payload)
        elif session.target is None:
            return self._no_target(conn)
        else:
            command = self.commands.publish_raw(conn, session, payload, text)
        return self._driver.run(command, lambda error: self._done_late(conn, error))

    def _no_target(self, conn: int) -> bool:
        self.commands.close(conn, "cannot_publish")
        return False

    def _done_late(self, conn: int, error: BaseException | None) -> None:
        if error is not None:
            self.reactor.report(error)
            self.reactor.close(conn, close_payload(BY_WORD["internal_error"]), _CALLBACK_ERROR)
        self.reactor.resume(conn)

    def on_bad_payload(self, conn: int, session: object, word: str, offset: int) -> None:
        self.commands.close(conn, "bad_payload", f"{word} at byte {offset}")

    def on_unpublished(self, conn: int, session: object) -> None:
        self.commands.close(conn, "engine_unavailable")

    # Ends.

    def close(self, conn: int, word: str) -> None:
        """Closes a session with the code of `word`; nothing if it is gone."""
        self.commands.close(conn, word)

    def end(self, conns: list[int], word: str) -> None:
        """Ends these sessions with the code of `word`: they hear nothing from now on, and their Closes are spread so
        that about `closes_per_second` of them come back at once.
        """
        spread = len(conns) / self.closes_per_second
        for conn in conns:
            payload = close_payload(BY_WORD[word])
            self.reactor.close_later(conn, payload, CAUSE_OF[word], self._chance.uniform(0, spread))

    def on_too_slow(self, conn: int, session: object) -> bytes:
        # By user where one is known: hundreds of them may share an address. No address has a space in it.
        user = session.user if isinstance(session, Session) else None
        times = self._slow.count(f"user {user}" if user is not None else address_key(self.reactor.address(conn) or ""))
        return close_payload(BY_WORD["too_slow_again" if times >= TOO_SLOW_AGAIN else "too_slow"])

    def cut(self, conn: int, word: str) -> None:
        """Ends a connection whose replay cannot go on: too slow for what is kept, or our mistake."""
        if word == "too_slow":
            self.reactor.close(conn, self.on_too_slow(conn, None), _TOO_SLOW)
        else:
            self.reactor.close(conn, close_payload(BY_WORD["internal_error"]), _CALLBACK_ERROR)

    def on_closed(self, conn: int, session: object, cause: int) -> None:
        if self.opening.sessions is not None:
            self.opening.sessions.ended(session, cause)
        if isinstance(session, Session):
            self.commands.ended(session)

    def on_left(self, address: str) -> None:
        self.admission.left(address)

    def on_error(self, error: BaseException) -> None:
        log.error("event of a connection failed", exc_info=error)

    def close_all(self, word: str) -> int:
        """Closes every session with the code of `word`, and turns every unfinished handshake away."""
        return self.reactor.close_all(
            close_payload(BY_WORD[word]), CAUSE_OF[word], problem(503, "this server process ends", word)
        )

    def cancel_all(self) -> None:
        self._driver.cancel_all()
