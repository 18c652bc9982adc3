"""The engine: the one place that gives every publish its place in its channel's order. The contract, in prose.

Order. An engine gives one total order per channel. It hands each publication to `deliver` in that order, on every
worker the same, and a publish begun after another's receipt never comes before it. Publications of one connection keep
their order.

Receipt. A receipt means: sequenced, and on its way to every subscriber. An exception means that nobody gets it.
Whatever an engine cannot decide (the link broke after the request was sent) is EngineError with `word`
"outcome_unknown".

Waiting. `publish` returns a receipt, or an awaitable of one when the engine has to ask somebody or wants the publisher
to wait. Callers must be ready for both from the first day; the reactor does not read from a connection whose command
waits, which is how pressure reaches the publisher.

Delivery. `deliver` only queues: it never blocks, and never calls the engine. Nothing is delivered before it is
sequenced.
"""

from collections.abc import Awaitable
from typing import Protocol

import msgspec


class Publication(msgspec.Struct, frozen=True, gc=False):
    """A validated payload on its way. `kind` as in `broker.native._hub` (0 JSON, 1 text, 2 binary).

    `extra` is more members of the JSON envelope, each with a leading comma. `conn` is the publishing connection, 0 =
    none; without `echo` it gets no copy.
    """

    channel: bytes
    kind: int
    payload: bytes
    extra: bytes = b""
    conn: int = 0
    echo: bool = True


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What is known once a publication is sequenced. `subscriptions` it went to on this worker; None = not known."""

    subscriptions: int | None = None
    position: str | None = None


class EngineError(Exception):
    """The publication was not sequenced, or nobody knows; `word` is a word of `broker.protocol.errors.ERRORS`."""

    def __init__(self, word: str) -> None:
        self.word = word
        super().__init__(word)


class Engine(Protocol):
    # True: the engine sequences in this process and in no time, so native code may deliver a raw message by itself.
    direct: bool

    def publish(self, publication: Publication) -> Receipt | Awaitable[Receipt]:
        """Sequences and delivers. Raises EngineError."""
