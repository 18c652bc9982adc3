"""An authority and an engine that answer when the test says so, for what happens between question and answer."""

import asyncio
from collections.abc import Awaitable

from broker.engine.base import HistoryRule, Holdings, Joined, Member, Present, Publication, Receipt, Sink
from broker.gateway.authority import Grant
from broker.native._linked import Linked
from broker.native._request import Request
from broker.protocol.offer import Offer


class SlowAuthority:
    """Asks the test: every decision waits for its future in `asked`."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Grant]] = []

    async def admit(self, request: Request, offer: Offer) -> Grant:
        answer: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        return await answer


class DistantEngine:
    """Sequences what the test takes from `asked`. Give a worker `attach`, which keeps the engine here."""

    direct = False
    local = False

    def __init__(self) -> None:
        self.asked: list[tuple[Publication, asyncio.Future[Receipt]]] = []
        self.taken: list[bytes] = []
        self.sink: Sink

    def attach(self, sink: Sink) -> "DistantEngine":
        self.sink = sink
        return self

    def publish(self, publication: Publication) -> asyncio.Future[Receipt]:
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.asked.append((publication, answer))
        self.taken.append(publication.payload)
        return answer

    def start(self, native: Linked) -> None:
        """Nothing has to be connected."""

    async def usable(self) -> None:
        """At once."""

    def holdings(self) -> Holdings | None:
        return None

    async def ask_all(self, question: bytes) -> list[bytes]:
        raise AssertionError("nobody asks here")

    async def stop(self) -> None:
        """Nothing is open."""

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined | Awaitable[Joined]:
        return Joined()

    def leave(self, channel: bytes) -> None:
        """Nothing is kept for a channel."""

    def enter(self, channel: bytes, member: Member) -> None:
        """Nobody asks who is there."""

    def exit(self, channel: bytes, session: str) -> None:
        """Nobody asks who is there."""

    def presence(self, channel: bytes) -> Present:
        return Present((), 0, False)

    def sequence(self, position: str | None = None) -> None:
        """The longest waiting publication gets its place."""
        publication, answer = self.asked.pop(0)
        answer.set_result(Receipt(self.sink.deliver(publication), position))

    def refuse(self, error: Exception) -> None:
        """The longest waiting publication fails."""
        self.asked.pop(0)[1].set_exception(error)


class JoiningEngine(DistantEngine):
    """Also lets the test answer its joins, taken from `joining`."""

    def __init__(self) -> None:
        super().__init__()
        self.joining: list[tuple[bytes, asyncio.Future[Joined]]] = []
        self.left: list[bytes] = []

    def attach(self, sink: Sink) -> "JoiningEngine":
        self.sink = sink
        return self

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined | Awaitable[Joined]:
        answer: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        self.joining.append((channel, answer))
        return answer

    def leave(self, channel: bytes) -> None:
        self.left.append(channel)

    def joined(self, joined: Joined | None = None) -> None:
        """The join that has waited longest is answered."""
        self.joining.pop(0)[1].set_result(joined or Joined())

    def cannot_join(self, error: Exception) -> None:
        """The join that has waited longest fails."""
        self.joining.pop(0)[1].set_exception(error)
