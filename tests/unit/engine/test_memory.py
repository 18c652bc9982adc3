"""The engine in this process: sequenced by being next, delivered before the receipt."""

from collections.abc import Callable

import pytest

from broker.engine.base import EngineError, HistoryRule, Joined, Publication, Receipt
from broker.engine.memory import MemoryEngine


class Delivering:
    """A sink whose deliveries are the test's."""

    def __init__(self, deliver: Callable[[Publication], int]) -> None:
        self.deliver = deliver

    def missed(self, channel: bytes, count: int | None) -> None:
        raise AssertionError("an engine in the process loses nothing")


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
