"""The engine in this process: sequenced by being next, delivered before the receipt."""

from collections.abc import Callable

import pytest

from broker.engine.base import EngineError, Joined, Publication, Receipt
from broker.engine.memory import MemoryEngine


class Delivering:
    """A sink whose deliveries are the test's."""

    def __init__(self, deliver: Callable[[Publication], int]) -> None:
        self.deliver = deliver

    def missed(self, channel: bytes, count: int | None) -> None:
        raise AssertionError("an engine in the process loses nothing")

    def outcome_unknown(self, conns: list[int]) -> None:
        raise AssertionError("an engine in the process has no link")

    def linked(self, again: bool) -> None:
        raise AssertionError("an engine in the process has no link")


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
