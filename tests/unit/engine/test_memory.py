"""The engine in this process: sequenced by being next, delivered before the receipt."""

from collections.abc import Callable, Iterable

import pytest

from broker.config.schema import Limits
from broker.engine.base import EngineError, HistoryRule, Joined, Member, PresenceEvent, Present, Publication, Receipt
from broker.engine.memory import MemoryEngine
from tests.fake_clock import FakeClock


class Delivering:
    """A sink whose deliveries are the test's."""

    def __init__(self, deliver: Callable[[Publication], int]) -> None:
        self.deliver = deliver
        self.told: list[tuple[bytes, PresenceEvent]] = []

    def missed(self, channel: bytes, count: int | None) -> None:
        raise AssertionError("an engine in the process loses nothing")

    def kept(self, channel: bytes) -> tuple[str, int]:
        raise AssertionError("an engine in the process has the only copy")

    def joined(self, channel: bytes, joined: Joined) -> None:
        raise AssertionError("an engine in the process answers at once")

    async def answer(self, question: bytes) -> bytes:
        return question[::-1]

    def outcome_unknown(self, conns: list[int]) -> None:
        raise AssertionError("an engine in the process has no link")

    def linked(self, again: bool) -> None:
        raise AssertionError("an engine in the process has no link")

    def presence(self, channel: bytes, event: PresenceEvent) -> None:
        self.told.append((channel, event))

    def members(self) -> Iterable[tuple[bytes, Member]]:
        raise AssertionError("an engine in the process forgets nobody")


def test_a_receipt_means_delivered_to_so_many() -> None:
    delivered: list[Publication] = []

    def deliver(publication: Publication) -> int:
        delivered.append(publication)
        return 3

    engine = MemoryEngine(Delivering(deliver))
    publications = [Publication(b"news", 1, b"a"), Publication(b"room", 0, b"1", b',"id":"x"', conn=7, echo=False)]
    receipts = [engine.publish(publication) for publication in publications]
    assert receipts == [Receipt(3), Receipt(3)]
    assert delivered == publications


def test_without_memory_nobody_gets_it_and_the_publisher_is_told() -> None:
    def deliver(publication: Publication) -> int:
        raise MemoryError

    with pytest.raises(EngineError) as refused:
        MemoryEngine(Delivering(deliver)).publish(Publication(b"news", 1, b"a"))
    assert refused.value.word == "engine_unavailable"


def test_the_native_core_may_publish_by_itself() -> None:
    assert MemoryEngine(Delivering(lambda publication: 0)).direct


def test_a_join_has_nothing_to_wait_for() -> None:
    engine = MemoryEngine(Delivering(lambda publication: 0))
    assert engine.join(b"news", None) == Joined()
    engine.leave(b"news")


def test_presence_is_told_when_its_time_has_come_and_not_before() -> None:
    sink, clock = Delivering(lambda publication: 0), FakeClock()
    engine = MemoryEngine(sink, Limits(presence_batch_seconds=0.5, presence_leave_seconds=10.0), clock)
    engine.enter(b"room", Member("s1", "ann", b"ann"))
    assert engine.presence(b"room") == Present((b"ann",), 1, False)
    clock.advance(0.4)
    assert sink.told == []
    clock.advance(0.1)
    assert sink.told == [(b"room", PresenceEvent("join", (b"ann",), 0, 1))]
    engine.exit(b"room", "s1")
    clock.advance(9.9)
    assert engine.presence(b"room").count == 1
    clock.advance(0.1)
    assert engine.presence(b"room").count == 0
    clock.advance(0.5)
    assert sink.told[1:] == [(b"room", PresenceEvent("leave", (b"ann",), 0, 0))]
    assert clock.alarms == []


def test_what_is_due_sooner_than_the_alarm_that_is_set_does_not_wait_for_it() -> None:
    sink, clock = Delivering(lambda publication: 0), FakeClock()
    engine = MemoryEngine(sink, Limits(presence_batch_seconds=0.5, presence_leave_seconds=10.0), clock)
    engine.enter(b"room", Member("s1", "ann", b"ann"))
    clock.advance(0.5)
    engine.exit(b"room", "s1")
    engine.enter(b"hall", Member("s2", "bob", b"bob"))
    clock.advance(0.5)
    assert sink.told[1:] == [(b"hall", PresenceEvent("join", (b"bob",), 0, 1))]
    assert len(clock.alarms) == 1


def test_an_event_that_cannot_be_told_does_not_stop_the_clock() -> None:
    class Failing(Delivering):
        def presence(self, channel: bytes, event: PresenceEvent) -> None:
            super().presence(channel, event)
            raise MemoryError

    sink, clock = Failing(lambda publication: 0), FakeClock()
    engine = MemoryEngine(sink, clock=clock)
    engine.enter(b"room", Member("s1", "ann", b"ann"))
    engine.exit(b"room", "s1")
    for _ in range(2):
        with pytest.raises(MemoryError):
            clock.advance(60)
    assert [event.kind for _, event in sink.told] == ["join", "leave"]


RULE = HistoryRule(10, 60.0, 1000)


def test_a_history_channel_gives_every_message_a_place_and_says_it_in_the_receipt() -> None:
    delivered: list[Publication] = []

    def deliver(publication: Publication) -> int:
        delivered.append(publication)
        return 1

    engine = MemoryEngine(Delivering(deliver))
    positions = [engine.publish(Publication(b"news", 1, b"x", history=RULE)).position for _ in range(3)]
    epoch = engine.history.epoch
    assert positions == [f"{epoch}.1", f"{epoch}.2", f"{epoch}.3"]
    assert [one.offset for one in delivered] == [1, 2, 3]
    joined = engine.join(b"news", RULE)
    assert (joined.epoch, joined.head) == (epoch, 3)
    assert joined.ring is not None
    assert joined.ring.after(0, 10, 1000) == delivered


@pytest.mark.parametrize("rule", [None, RULE], ids=["live", "history"])
def test_a_repeated_message_id_is_delivered_once_and_told_the_first_receipt(rule: HistoryRule | None) -> None:
    delivered: list[bytes] = []

    def deliver(publication: Publication) -> int:
        delivered.append(publication.payload)
        return len(delivered)

    engine = MemoryEngine(Delivering(deliver))
    receipts = [
        engine.publish(Publication(channel, 1, payload, message_id=message_id, history=rule))
        for channel, payload, message_id in [
            (b"news", b"first", "1"),
            (b"news", b"retry", "1"),
            (b"news", b"next", "2"),
            (b"room", b"other", "1"),
        ]
    ]
    assert delivered == [b"first", b"next", b"other"]
    assert receipts[0] == receipts[1]
    assert len({receipt.subscriptions for receipt in receipts}) == 3


def test_what_has_its_place_and_could_not_be_delivered_is_not_said_to_be_unpublished() -> None:
    missed: list[tuple[bytes, int | None]] = []

    def deliver(publication: Publication) -> int:
        raise MemoryError

    sink = Delivering(deliver)
    sink.missed = lambda channel, count: missed.append((channel, count))  # type: ignore[method-assign]
    with pytest.raises(EngineError) as refused:
        MemoryEngine(sink).publish(Publication(b"news", 1, b"a", history=RULE))
    assert refused.value.word == "outcome_unknown"
    assert missed == [(b"news", 1)]
