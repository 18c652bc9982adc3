"""Keys, their patterns and their bucket: no socket, a clock of the test's."""

import hashlib

import pytest

from broker.api.keys import Bucket, Key, Keys
from broker.api.problems import Problem
from broker.config.schema import ApiKey


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_key_is_found_by_itself_and_by_nothing_else() -> None:
    keys = Keys({"a": ApiKey(sha256("one")), "b": ApiKey(sha256("two")), "broken": ApiKey("")})
    found = keys.find(b"two")
    assert found is not None
    assert found.name == "b"
    for presented in (b"", b"on", b"one ", sha256("one").encode(), bytes.fromhex(sha256("one"))):
        assert keys.find(presented) is None


def test_every_hash_is_compared_in_constant_time_even_behind_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(digest: bytes, other: bytes) -> bool:
        compared.append(other)
        return digest == other

    monkeypatch.setattr("broker.api.keys.hmac.compare_digest", compare)
    Keys({"a": ApiKey(sha256("one")), "b": ApiKey(sha256("two"))}).find(b"one")
    assert compared == [bytes.fromhex(sha256("one")), bytes.fromhex(sha256("two"))]


def test_neither_keys_nor_hashes_are_shown() -> None:
    assert repr(Keys({"a": ApiKey(sha256("one"))})) == "Keys(a)"


@pytest.mark.parametrize(
    ("patterns", "channel", "covered"),
    [
        ((">",), "a.b", True),
        (("room.*",), "room.1", True),
        (("room.*",), "room.1.2", False),
        (("user.{sub}",), "user.ann", False),
        ((), "a", False),
    ],
)
def test_a_key_covers_what_its_patterns_match(patterns: tuple[str, ...], channel: str, covered: bool) -> None:
    assert Key("k", ApiKey(channels=patterns)).covers(channel) is covered


def test_a_missing_scope_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        Key("k", ApiKey(scopes=("read",))).need("publish")
    assert caught.value.code == "not_permitted"


def test_a_batch_larger_than_the_bucket_passes_and_is_paid_for() -> None:
    now = [0.0]
    bucket = Bucket(10.0, lambda: now[0])
    assert bucket.take(100) == 0
    assert bucket.take(1) == pytest.approx(9.1)
    now[0] = 9.15
    assert bucket.take(1) == 0
    assert bucket.take(1) > 0
    now[0] = 1000.0
    for _ in range(10):
        assert bucket.take(1) == 0
    assert bucket.take(1) > 0


def test_a_key_that_stays_over_a_reload_keeps_its_bucket_and_a_changed_one_does_not() -> None:
    now = 0.0
    stays, other = ApiKey(sha256("one"), messages_per_second=2), ApiKey(sha256("two"), messages_per_second=2)
    before = Keys({"a": stays, "b": other}, lambda: now)
    for presented in (b"one", b"two"):
        key = before.find(presented)
        assert key is not None
        key.spend(2)
    changed = ApiKey(sha256("two"), messages_per_second=3)
    after = Keys({"a": stays, "b": changed}, lambda: now, before)
    same, fresh = after.find(b"one"), after.find(b"two")
    assert same is not None
    assert fresh is not None
    assert same is before.find(b"one")
    with pytest.raises(Problem, match="rate_limited"):
        same.spend(1)
    fresh.spend(1)
    assert Keys({"a": stays}, lambda: now, before).find(b"two") is None
