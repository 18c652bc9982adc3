"""Which channels this worker has joined at its engine.

The node asks before it lets anybody subscribe, and the worker calls `sweep` twenty times a second. All who want a
channel share one question; whoever stops waiting stops nobody else. A channel without subscribers lingers, because a
page that is reloaded comes back at once, and is then left. It counts no subscribers itself: the hub knows them best.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from broker.engine.base import Engine, EngineError, HistoryRule, Joined

SWEEP_SECONDS = 0.05
# Names looked at in one sweep: 0.8 ms, and 80 000 a second, so that names that come once are left as fast as they come.
MOST_SWEPT = 4096
# A round through all channels takes this share of the linger, if there are few enough of them.
ROUNDS_PER_LINGER = 4
# Joins under way at once after a new link: enough to fill it, few enough to leave room for everybody else's.
REJOINED_AT_ONCE = 256

# Channel, its rule, the answer; True = joined again, on a new link.
OnJoined = Callable[[bytes, HistoryRule | None, Joined, bool], None]


class Interest:
    """One channel. Awaiting it waits for the answer of the engine, and raises EngineError if that was no."""

    __slots__ = ("asked", "generation", "idle_since", "once_more", "question", "rule")

    def __init__(self, rule: HistoryRule | None, now: float, generation: int) -> None:
        self.rule = rule
        self.generation = generation
        # Since when nobody is known to be subscribed.
        self.idle_since: float | None = now
        self.question: asyncio.Task[None] | None = None
        # Of a question whose answer nobody has looked at: of which generation, and whether it was joined before.
        self.asked: tuple[int, bool] | None = None
        # Something was found missing behind the answer, while the question had not yet ended.
        self.once_more = False

    def __await__(self) -> Generator[Any, None, None]:
        if self.question is not None:
            yield from asyncio.shield(self.question).__await__()


class Interests:
    """`subscribers` tells how many of a channel receive here. `on_joined` hears every answer before any waiter does,
    and `on_gone` of channels that were left, or could not be joined.
    """

    def __init__(
        self,
        engine: Engine,
        subscribers: Callable[[bytes], int],
        on_joined: OnJoined,
        on_gone: Callable[[bytes], None] = lambda channel: None,
        *,
        linger_seconds: float,
        join_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._subscribers = subscribers
        self._on_joined = on_joined
        self._on_gone = on_gone
        self._linger_seconds = linger_seconds
        self._join_seconds = join_seconds
        self._clock = clock
        self._interests: dict[bytes, Interest] = {}
        # Every joined name once; the sweep takes from the left and puts back on the right.
        self._round: deque[bytes] = deque()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._interests)

    def __contains__(self, channel: bytes) -> bool:
        return channel in self._interests

    def join(self, channel: bytes, rule: HistoryRule | None) -> Interest | None:
        """None: publications of the channel come here already. Otherwise await it. Raises EngineError.

        A live channel of an engine in this process needs no interest: there is nobody to tell.
        """
        if rule is None and self._engine.local:
            return None
        interest = self._interests.get(channel)
        if interest is None:
            interest = Interest(rule, self._clock(), self._generation)
        elif interest.question is not None:
            return interest
        else:
            interest.idle_since = self._clock()
            if interest.generation == self._generation:
                return None
        return self._ask(channel, interest)

    def again(self, channel: bytes) -> None:
        """Something of a joined channel is missing here: the answer to another join holds it."""
        try:
            self.refresh(channel)
        except EngineError:
            return  # no link: the next one asks for everything

    def refresh(self, channel: bytes) -> Interest | None:
        """Asks about a joined channel once more, unless that is under way; None: there is nothing to wait for. Raises
        EngineError.
        """
        interest = self._interests.get(channel)
        if interest is None:
            return None
        if interest.question is not None:
            interest.once_more |= interest.asked is None  # otherwise the answer, which is to come, holds it
            return interest
        return self._ask(channel, interest)

    def _ask(self, channel: bytes, interest: Interest) -> Interest | None:
        answer = self._engine.join(channel, interest.rule)
        known = channel in self._interests
        self._interests[channel] = interest
        if isinstance(answer, Joined):
            self._joined(channel, interest, answer, self._generation, known)
            return None
        interest.asked = (self._generation, known)
        interest.question = asyncio.ensure_future(self._answered(channel, interest, answer, known))
        interest.question.add_done_callback(_retrieve)
        return interest

    async def _answered(self, channel: bytes, interest: Interest, answer: Awaitable[Joined], known: bool) -> None:
        try:
            # What is subscribed already is not given up: nobody would ask again on this link, and an answer that
            # comes too late would find nobody, so that its subscribers would hear nothing and not know it.
            async with asyncio.timeout(None if known else self._join_seconds):
                joined = await answer
            self.answered(channel, joined)
        except BaseException as error:
            if interest.asked is not None or not isinstance(error, TimeoutError):  # else it came at the last moment
                self._failed(channel, interest, known)
                if isinstance(error, TimeoutError):
                    self._engine.leave(channel)  # it has been asked, and would keep on sending the channel for ever
                    raise EngineError("engine_unavailable") from None
                raise
        finally:
            interest.question = interest.asked = None
        if interest.once_more:
            interest.once_more = False
            self.again(channel)

    def _failed(self, channel: bytes, interest: Interest, known: bool) -> None:
        """What is known stays so, of an older generation: the next link asks again."""
        if not known and interest.asked is not None:
            del self._interests[channel]
            self._on_gone(channel)

    def answered(self, channel: bytes, joined: Joined) -> None:
        """The answer to a question under way is here. What follows it on a link is delivered in the same turn, so an
        engine that has one calls this before; otherwise a gap would be told behind what came after the hole.
        """
        interest = self._interests.get(channel)
        if interest is not None and interest.asked is not None:
            self._joined(channel, interest, joined, *interest.asked)
            interest.asked = None  # not before: if that fails, so has the question

    def _joined(self, channel: bytes, interest: Interest, joined: Joined, generation: int, known: bool) -> None:
        self._on_joined(channel, interest.rule, joined, known)
        interest.generation = generation
        if not known:
            self._round.append(channel)

    def sweep(self) -> None:
        """Looks at some channels, and leaves those without subscribers for as long as they linger."""
        count = len(self._round)
        if not count:
            return
        now = self._clock()
        sweeps = max(1.0, self._linger_seconds / ROUNDS_PER_LINGER / SWEEP_SECONDS)
        for _ in range(min(MOST_SWEPT, count, 1 + int(count / sweeps))):
            channel = self._round.popleft()
            interest = self._interests[channel]
            if interest.question is not None or self._subscribers(channel):
                interest.idle_since = None
            elif interest.idle_since is None:
                interest.idle_since = now
            elif now - interest.idle_since >= self._linger_seconds:
                del self._interests[channel]
                self._engine.leave(channel)
                self._on_gone(channel)
                continue
            self._round.append(channel)

    async def rejoin(self) -> None:
        """A new link knows of nothing: joins everything again, some at once. Stops if that link is lost as well.

        Questions that the old link did not answer end first: the engine has failed them, which their waiters are told.
        """
        self._generation += 1
        generation = self._generation
        await _all([interest for interest in self._interests.values() if interest.question is not None])
        asked: list[Interest] = []
        for channel in list(self._round):
            if generation != self._generation:
                return
            interest = self._interests.get(channel)
            if interest is None or interest.generation == generation or interest.question is not None:
                continue  # left meanwhile, or somebody who wants to subscribe was quicker
            try:
                waiting = self._ask(channel, interest)
            except EngineError:
                return
            if waiting is not None:
                asked.append(waiting)
            if len(asked) == REJOINED_AT_ONCE:
                if not await _all(asked):
                    return
                asked.clear()
        await _all(asked)


async def _all(interests: list[Interest]) -> bool:
    """False: one of them failed, and with it the link."""
    results = await asyncio.gather(*interests, return_exceptions=True)
    return not any(isinstance(result, BaseException) for result in results)


def _retrieve(question: asyncio.Task[None]) -> None:
    """Nobody may be waiting any more; asyncio would log the exception as lost."""
    if not question.cancelled():
        question.exception()
