"""The engine in this process: sequenced by being next, delivered before the receipt."""

import pytest

from broker.engine.base import EngineError, Publication, Receipt
from broker.engine.memory import MemoryEngine


def test_a_receipt_means_delivered_to_so_many() -> None:
    delivered: list[Publication] = []

    def deliver(publication: Publication) -> int:
        delivered.append(publication)
        return 3

    engine = MemoryEngine(deliver)
    publications = [Publication(b"news", 1, b"a"), Publication(b"room", 0, b"1", b',"id":"x"', conn=7, echo=False)]
    receipts = [engine.publish(publication) for publication in publications]
    assert receipts == [Receipt(3), Receipt(3)]
    assert delivered == publications


def test_without_memory_nobody_gets_it_and_the_publisher_is_told() -> None:
    def deliver(publication: Publication) -> int:
        raise MemoryError

    with pytest.raises(EngineError) as refused:
        MemoryEngine(deliver).publish(Publication(b"news", 1, b"a"))
    assert refused.value.word == "engine_unavailable"


def test_the_native_core_may_publish_by_itself() -> None:
    assert MemoryEngine(lambda publication: 0).direct
