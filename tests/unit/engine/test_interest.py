"""Interest: who waits for a join, what a failure tells whom, when a channel is left, what a new link asks again."""

import asyncio
from collections.abc import Callable

import pytest

from broker.engine.base import EngineError, HistoryRule, Holdings, Joined, Member, Present, Publication, Receipt
from broker.engine.interest import MOST_SWEPT, REJOINED_AT_ONCE, Interest, Interests

LINGER_SECONDS = 15.0
RULE = HistoryRule(10, 60.0, 1000)


class FakeEngine:
    """Answers joins when the test says so, or `at_once`."""

    def __init__(self, *, direct: bool = False, at_once: bool = False) -> None:
        self.direct = self.local = direct
        self.at_once = at_once
        self.asked: list[tuple[bytes, asyncio.Future[Joined]]] = []
        self.joins: list[bytes] = []
        self.left: list[bytes] = []
        self.refuses = False

    def start(self, native: object) -> None:
        raise AssertionError("interest starts nothing")

    async def usable(self) -> None:
        raise AssertionError("interest waits for nothing")

    def holdings(self) -> Holdings | None:
        return None

    async def ask_all(self, question: bytes) -> list[bytes]:
        raise AssertionError("nobody asks here")

    async def stop(self) -> None:
        raise AssertionError("interest stops nothing")

    def enter(self, channel: bytes, member: Member) -> None:
        raise AssertionError("interest is no presence")

    def exit(self, channel: bytes, session: str) -> None:
        raise AssertionError("interest is no presence")

    def presence(self, channel: bytes) -> Present:
        raise AssertionError("interest is no presence")

    def publish(self, publication: Publication) -> Receipt:
        raise AssertionError("interest publishes nothing")

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined | asyncio.Future[Joined]:
        if self.refuses:
            raise EngineError("engine_unavailable")
        self.joins.append(channel)
        if self.at_once:
            return Joined()
        answer: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()
        self.asked.append((channel, answer))
        return answer

    def leave(self, channel: bytes) -> None:
        self.left.append(channel)

    def answer(self, joined: Joined | None = None) -> None:
        self.asked.pop(0)[1].set_result(joined or Joined())

    def fail(self) -> None:
        self.asked.pop(0)[1].set_exception(EngineError("engine_unavailable"))


class Stage:
    """Interests over a fake engine, a fake clock and a table of subscribers."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.now = 1000.0
        self.subscribers: dict[bytes, int] = {}
        self.heard: list[tuple[bytes, HistoryRule | None, int, bool]] = []
        self.looked_at = 0
        self.interests = Interests(
            engine,
            self._count,
            lambda channel, rule, joined, again: self.heard.append((channel, rule, joined.head, again)),
            linger_seconds=LINGER_SECONDS,
            join_seconds=5.0,
            clock=lambda: self.now,
        )

    def _count(self, channel: bytes) -> int:
        self.looked_at += 1
        return self.subscribers.get(channel, 0)

    def pass_time(self, seconds: float) -> None:
        """Twenty sweeps a second."""
        for _ in range(round(seconds * 20)):
            self.now += 0.05
            self.interests.sweep()


async def waiter(interest: Interest | None) -> str:
    """What somebody who wants to subscribe is told."""
    assert interest is not None
    try:
        await interest
    except EngineError as error:
        return error.word
    return "joined"


async def settle(predicate: Callable[[], object]) -> None:
    for _ in range(1000):
        if predicate():
            return
        await asyncio.sleep(0)
    raise AssertionError("never came")


async def test_a_live_channel_of_an_engine_in_this_process_asks_nobody_and_keeps_nothing() -> None:
    stage = Stage(FakeEngine(direct=True))
    assert stage.interests.join(b"news", None) is None
    assert len(stage.interests) == 0
    assert stage.engine.joins == []


async def test_all_who_want_a_channel_share_one_question() -> None:
    stage = Stage(FakeEngine())
    waiting = [asyncio.create_task(waiter(stage.interests.join(b"news", RULE))) for _ in range(5)]
    await asyncio.sleep(0)
    stage.engine.answer(Joined("e", 7))
    assert await asyncio.gather(*waiting) == ["joined"] * 5
    assert stage.engine.joins == [b"news"]
    assert stage.heard == [(b"news", RULE, 7, False)]
    assert stage.interests.join(b"news", RULE) is None


async def test_an_engine_that_answers_at_once_makes_nobody_wait() -> None:
    stage = Stage(FakeEngine(at_once=True))
    assert stage.interests.join(b"news", None) is None
    assert stage.interests.join(b"news", None) is None
    assert stage.engine.joins == [b"news"]
    assert b"news" in stage.interests


async def test_a_client_that_goes_away_while_it_waits_takes_nobody_with_it() -> None:
    stage = Stage(FakeEngine())
    first, second = (asyncio.create_task(waiter(stage.interests.join(b"news", None))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    stage.engine.answer()
    assert await second == "joined"


async def test_a_failed_join_is_told_to_all_who_wait_and_asked_again_by_the_next() -> None:
    stage = Stage(FakeEngine())
    waiting = [asyncio.create_task(waiter(stage.interests.join(b"news", None))) for _ in range(3)]
    await asyncio.sleep(0)
    stage.engine.fail()
    assert await asyncio.gather(*waiting) == ["engine_unavailable"] * 3
    assert len(stage.interests) == 0
    again = stage.interests.join(b"news", None)
    stage.engine.answer()
    assert await waiter(again) == "joined"
    assert stage.heard == [(b"news", None, 0, False)]


async def test_a_failed_join_that_nobody_waits_for_any_more_is_no_lost_exception() -> None:
    stage = Stage(FakeEngine())
    stage.interests.join(b"news", None)
    stage.engine.fail()
    await settle(lambda: b"news" not in stage.interests)


async def test_what_is_missing_behind_an_answer_is_asked_for_though_its_question_has_not_ended_yet() -> None:
    stage = Stage(FakeEngine())
    waiting = asyncio.create_task(waiter(stage.interests.join(b"news", RULE)))
    await asyncio.sleep(0)
    stage.interests.again(b"news")
    stage.interests.answered(b"news", Joined("e", 7))  # a link tells it in the turn of the answer
    stage.interests.again(b"news")  # and later in that turn, that messages were lost
    stage.engine.answer(Joined("e", 7))
    assert await waiting == "joined"
    await settle(lambda: len(stage.engine.joins) == 2)
    stage.engine.answer(Joined("e", 9))
    await settle(lambda: [head for _, _, head, _ in stage.heard] == [7, 9])
    assert len(stage.engine.joins) == 2, "what was missing before the first answer, that has held"


async def test_an_answer_at_the_last_moment_is_an_answer() -> None:
    stage = Stage(FakeEngine())
    waiting = asyncio.create_task(waiter(stage.interests.join(b"news", RULE)))
    await asyncio.sleep(0)
    stage.interests.answered(b"news", Joined("e", 7))
    stage.engine.asked.pop(0)[1].set_exception(TimeoutError())
    assert await waiting == "joined"
    stage.pass_time(2 * LINGER_SECONDS + 1)
    assert stage.engine.left == [b"news"], "it has its place in the round, once"


async def test_an_engine_that_refuses_at_once_leaves_nothing_behind() -> None:
    stage = Stage(FakeEngine())
    stage.engine.refuses = True
    with pytest.raises(EngineError):
        stage.interests.join(b"news", None)
    assert len(stage.interests) == 0


async def test_an_engine_that_never_answers_is_given_up() -> None:
    stage = Stage(FakeEngine())
    impatient = Interests(
        stage.engine, stage.subscribers.__getitem__, lambda *_: None, linger_seconds=1, join_seconds=0.01, clock=float
    )
    assert await waiter(impatient.join(b"news", None)) == "engine_unavailable"
    assert len(impatient) == 0
    assert stage.engine.left == [b"news"], "or it would send for ever what nobody wants"


async def test_subscribers_of_a_channel_are_not_given_up_when_a_new_link_answers_late() -> None:
    engine, heard = FakeEngine(at_once=True), []
    impatient = Interests(
        engine, lambda _: 1, lambda channel, *_: heard.append(channel), linger_seconds=1, join_seconds=0.01, clock=float
    )
    impatient.join(b"news", None)
    heard.clear()
    engine.at_once = False
    again = asyncio.create_task(impatient.rejoin())
    await settle(lambda: engine.asked)
    # Whoever asks after it for something new waits as long as anybody does.
    assert await waiter(impatient.join(b"other", None)) == "engine_unavailable"
    engine.answer()
    await again
    assert heard == [b"news"], "they are told of the hole"


async def test_a_channel_lingers_for_a_page_that_is_reloaded_and_is_then_left() -> None:
    stage = Stage(FakeEngine(at_once=True))
    stage.interests.join(b"news", None)
    stage.subscribers[b"news"] = 1
    stage.pass_time(100)
    stage.subscribers[b"news"] = 0
    stage.pass_time(LINGER_SECONDS - 0.1)
    assert stage.interests.join(b"news", None) is None  # the page is back, but has not subscribed yet
    stage.pass_time(LINGER_SECONDS - 0.1)
    assert stage.engine.left == []
    stage.pass_time(LINGER_SECONDS / 2)
    assert stage.engine.left == [b"news"]
    assert stage.interests.join(b"news", None) is None
    assert stage.engine.joins == [b"news", b"news"]


async def test_a_channel_that_is_still_being_joined_is_not_left() -> None:
    stage = Stage(FakeEngine())
    interest = stage.interests.join(b"news", None)
    stage.pass_time(3 * LINGER_SECONDS)
    assert stage.engine.left == []
    stage.engine.answer()
    assert await waiter(interest) == "joined"


async def test_a_hundred_thousand_channels_are_swept_in_small_bites() -> None:
    stage = Stage(FakeEngine(at_once=True))
    for number in range(100_000):
        stage.interests.join(b"%d" % number, None)
    stage.pass_time(0.05)
    assert 1000 < stage.looked_at <= MOST_SWEPT, "a round takes a quarter of the linger"
    stage.pass_time(60)
    assert len(stage.interests) == 0
    assert len(stage.engine.left) == len(set(stage.engine.left)) == 100_000


async def test_a_new_link_joins_everything_again_in_portions_and_hands_on_every_answer() -> None:
    stage = Stage(FakeEngine(at_once=True))
    names = [b"%d" % number for number in range(2 * REJOINED_AT_ONCE + 10)]
    for name in names:
        stage.interests.join(name, RULE)
    stage.heard.clear()
    stage.engine.joins.clear()
    stage.engine.at_once = False
    again = asyncio.create_task(stage.interests.rejoin())
    done = 0
    while done < len(names):
        await settle(lambda: stage.engine.asked)
        assert len(stage.engine.asked) <= REJOINED_AT_ONCE
        while stage.engine.asked:
            stage.engine.answer(Joined("e", 9))
            done += 1
    await again
    assert stage.engine.joins == names
    assert stage.heard == [(name, RULE, 9, True) for name in names]


async def test_who_subscribes_on_a_new_link_does_not_rely_on_what_the_old_one_knew() -> None:
    stage = Stage(FakeEngine(at_once=True))
    for number in range(2 * REJOINED_AT_ONCE):
        stage.interests.join(b"%d" % number, None)
    stage.engine.joins.clear()
    stage.engine.at_once = False
    again = asyncio.create_task(stage.interests.rejoin())
    await settle(lambda: stage.engine.asked)
    last = b"%d" % (2 * REJOINED_AT_ONCE - 1)
    impatient = stage.interests.join(last, None)
    assert impatient is not None
    while not again.done():
        await settle(lambda: stage.engine.asked or again.done())
        while stage.engine.asked:
            stage.engine.answer()
    assert await waiter(impatient) == "joined"
    assert stage.engine.joins.count(last) == 1


async def test_a_link_that_breaks_while_it_joins_again_is_given_up_and_the_next_asks_for_all() -> None:
    stage = Stage(FakeEngine(at_once=True))
    names = [b"a", b"b", b"c"]
    for name in names:
        stage.interests.join(name, None)
    stage.engine.at_once = False
    again = asyncio.create_task(stage.interests.rejoin())
    await settle(lambda: len(stage.engine.asked) == 3)
    stage.engine.answer()
    stage.engine.fail()
    stage.engine.fail()
    await again
    assert len(stage.interests) == 3
    stage.engine.refuses = True
    await stage.interests.rejoin()
    stage.engine.refuses = False
    stage.engine.at_once = True
    stage.heard.clear()
    await stage.interests.rejoin()
    assert sorted(channel for channel, _, _, _ in stage.heard) == names


async def test_a_question_to_the_old_link_ends_before_the_new_one_is_asked() -> None:
    stage = Stage(FakeEngine())
    told = asyncio.create_task(waiter(stage.interests.join(b"news", None)))
    await asyncio.sleep(0)
    again = asyncio.create_task(stage.interests.rejoin())
    await asyncio.sleep(0)
    stage.engine.fail()
    assert await told == "engine_unavailable"
    await again
    assert stage.engine.joins == [b"news"]
