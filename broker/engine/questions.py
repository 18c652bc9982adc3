"""Questions that one worker puts to all: forwarded by the engine process, the answers gathered.

Whoever does not answer within ASK_SECONDS, or dies meanwhile, is left out; the asker gets what there is.
"""

from collections.abc import Callable

from broker.engine import wire
from broker.engine.base import ASK_SECONDS
from broker.native._exchange import Exchange

# Under way at once, of all workers; each is an operator's call.
MOST_QUESTIONS = 1024


class _Question:
    __slots__ = ("answers", "port", "token", "waiting")

    def __init__(self, port: int, token: int, waiting: set[int]) -> None:
        self.port = port
        self.token = token
        self.waiting = waiting
        self.answers: list[bytes] = []


class Questions:
    """`ports`: of all workers now. `call_later(seconds, callback)`: the loop's."""

    def __init__(
        self,
        exchange: Exchange,
        ports: Callable[[], list[int]],
        call_later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        self._exchange = exchange
        self._ports = ports
        self._call_later = call_later
        self._asked: dict[int, _Question] = {}
        self._number = 0

    def ask(self, port: int, token: int, payload: bytes) -> None:
        if len(self._asked) >= MOST_QUESTIONS:
            self._exchange.reply(port, token, b"rate_limited", True)
            return
        self._number += 1
        number, ports = self._number, self._ports()
        self._asked[number] = _Question(port, token, set(ports))
        for each in ports:
            self._exchange.call(each, wire.Verb.QUESTION, number, b"", payload)
        self._call_later(ASK_SECONDS, lambda: self._finish(number))

    def answered(self, port: int, number: int, payload: bytes, failed: bool) -> None:
        """An answer that comes too late, or twice, is of no use."""
        question = self._asked.get(number)
        if question is None or port not in question.waiting:
            return
        if not failed:
            question.answers.append(wire.decode_bytes(payload))
        self._done(number, question, port)

    def gone(self, port: int) -> None:
        """A link has ended: it answers nothing more, and what it asked has nobody to hear it."""
        for number, question in list(self._asked.items()):
            if question.port == port:
                del self._asked[number]
            elif port in question.waiting:
                self._done(number, question, port)

    def _done(self, number: int, question: _Question, port: int) -> None:
        question.waiting.discard(port)
        if not question.waiting:
            self._finish(number)

    def _finish(self, number: int) -> None:
        question = self._asked.pop(number, None)
        if question is not None:
            self._exchange.reply(question.port, question.token, wire.encode(question.answers), False)
