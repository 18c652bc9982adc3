"""A line for each session that opens and for each that ends: `log.access`, or the level "debug".

The opening and the gateway hold one, or None: a broker without an access log does one test of an attribute for each
session, and nothing for a message. The id of a user stands in the access log only; in neither stands a channel's name.
"""

import time
from collections.abc import Callable

from broker.config.schema import Log
from broker.gateway.refusals import cause_word
from broker.gateway.session import Session
from broker.log import ACCESS, get_logger
from broker.native._reactor import Reactor
from broker.protocol.close_codes import BY_WORD

# Every session is a line, that is what it is asked for. At "debug" alone it is a line like others.
access = get_logger(ACCESS, limited=False)
log = get_logger(__name__)


class SessionLog:
    """`clock`: monotonic seconds."""

    def __init__(self, reactor: Reactor, *, access: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._reactor = reactor
        self._access = access
        self._clock = clock

    def opened(self, conn: int, session: Session, channels: int) -> None:
        session.opened_at = self._clock()
        form = "json" if session.json else "raw"
        if self._access:
            address = self._reactor.address(conn)
            access.info(
                "session opened",
                session=session.id,
                user=session.user,
                address=address,
                format=form,
                channels=channels,
            )
        else:
            log.debug("session opened", session=session.id, format=form, channels=channels)

    def ended(self, session: object, cause: int) -> None:
        if not isinstance(session, Session):
            return
        word = cause_word(cause)
        row = BY_WORD.get(word)
        code = None if row is None else row.code
        # A session that opened before a reload asked for this has no time.
        seconds = None if session.opened_at is None else round(self._clock() - session.opened_at, 3)
        if self._access:
            access.info("session ended", session=session.id, user=session.user, cause=word, code=code, seconds=seconds)
        else:
            log.debug("session ended", session=session.id, cause=word, code=code, seconds=seconds)


def session_log(settings: Log, reactor: Reactor) -> SessionLog | None:
    """None: nobody wants it."""
    if settings.access or settings.level == "debug":
        return SessionLog(reactor, access=settings.access)
    return None
