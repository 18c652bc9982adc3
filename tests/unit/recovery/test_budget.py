"""What all rings of a worker hold together is bounded, and the one used longest ago gives way."""

from broker.engine.base import Publication
from broker.engine.ring import Ring
from broker.recovery.budget import Budget


def filled(count: int, size: int = 1000) -> Ring:
    ring = Ring("epoch", 0)
    for offset in range(1, count + 1):
        ring.append(Publication(b"c", 1, b"x" * size, offset=offset, epoch="epoch"))
    return ring


def test_the_ring_used_longest_ago_is_emptied_and_keeps_its_position() -> None:
    rings = {name: filled(10) for name in (b"a", b"b", b"c")}
    budget = Budget(rings[b"a"].cost * 2 + 100)
    budget.use(b"a", rings[b"a"])
    budget.use(b"b", rings[b"b"])
    budget.use(b"a", rings[b"a"])
    budget.use(b"c", rings[b"c"])
    assert [len(ring) for ring in rings.values()] == [10, 0, 10]
    assert (rings[b"b"].start, rings[b"b"].head) == (10, 10)
    assert budget.total_bytes == rings[b"a"].cost + rings[b"c"].cost


def test_a_ring_that_grows_alone_stays_within_the_budget() -> None:
    ring = filled(10)
    most = ring.cost // 2
    budget = Budget(most)
    budget.use(b"a", ring)
    assert 0 < len(ring) < 10
    assert ring.head == 10
    assert budget.total_bytes == ring.cost <= most


def test_what_is_gone_counts_no_longer() -> None:
    budget = Budget(1 << 20)
    budget.use(b"a", filled(10))
    budget.forget(b"a")
    budget.forget(b"never")
    assert budget.total_bytes == 0
