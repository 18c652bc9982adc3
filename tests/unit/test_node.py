"""The verbs of a worker: what holds for a channel whoever asks, and what reaches engine and reactor."""

from typing import Any, cast

import pytest

from broker import node as node_module
from broker.config.schema import ChannelPolicy
from broker.engine.base import (
    EngineError,
    HistoryRule,
    Holdings,
    Joined,
    Member,
    PresenceEvent,
    Present,
    Publication,
    Receipt,
)
from broker.native._linked import Linked
from broker.native._queue import POLICIES
from broker.native._reactor import Reactor
from broker.node import KIND_BINARY, KIND_JSON, KIND_TEXT, Node, PayloadError


class FakeReactor:
    """Remembers what it was asked to do."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.counted: list[int] = []
        self.joined: set[tuple[int, bytes]] = set()

    def count_message(self, pattern: int) -> None:
        self.counted.append(pattern)

    def subscribe(
        self, conn: int, name: bytes, policy: int, payload: int, receives: bool, sends: bool, pattern: int = 0
    ) -> bool:
        self.calls.append(("subscribe", conn, name, policy, payload, receives, sends))
        new = (conn, name) not in self.joined
        self.joined.add((conn, name))
        return new

    def unsubscribe(self, conn: int, name: bytes) -> bool:
        known = (conn, name) in self.joined
        self.joined.discard((conn, name))
        return known

    def publish(self, conn: int, name: bytes, kind: int, payload: bytes, extra: bytes, echo: bool) -> int:
        self.calls.append(("publish", conn, name, kind, payload, extra, echo))
        return 5

    def tell(self, name: bytes, payload: bytes) -> int:
        self.calls.append(("tell", name, payload))
        return 5

    def missed(self, name: bytes, count: int | None) -> list[int]:
        self.calls.append(("missed", name, count))
        return [] if count else [7, 8]


class FakeEngine:
    direct = True
    local = True

    def __init__(self) -> None:
        self.taken: list[Publication] = []
        self.answer: Receipt | EngineError = Receipt(1)
        self.present: dict[tuple[bytes, str], Member] = {}

    def publish(self, publication: Publication) -> Receipt:
        self.taken.append(publication)
        if isinstance(self.answer, EngineError):
            raise self.answer
        return self.answer

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

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        return Joined()

    def leave(self, channel: bytes) -> None:
        """Nothing is kept for a channel."""

    def enter(self, channel: bytes, member: Member) -> None:
        self.present[channel, member.session] = member

    def exit(self, channel: bytes, session: str) -> None:
        del self.present[channel, session]

    def presence(self, channel: bytes) -> Present:
        here = tuple(member.body for (name, _), member in self.present.items() if name == channel)
        return Present(here, len(here), False)


CHANNELS = {
    "ticks.*": ChannelPolicy(payload="json", queue="latest"),
    "words": ChannelPolicy(payload="text", queue="drop_oldest"),
    "bytes": ChannelPolicy(payload="binary", queue="drop_newest"),
    "room": ChannelPolicy(presence=True),
}


@pytest.fixture
def reactor() -> FakeReactor:
    return FakeReactor()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def node(reactor: FakeReactor, engine: FakeEngine) -> Node:
    return Node(cast("Reactor", reactor), lambda sink: engine, CHANNELS, 4)


def test_a_channel_has_the_settings_of_its_pattern_and_others_the_defaults(node: Node) -> None:
    ticks, news = node.channel("ticks.eur"), node.channel("news")
    assert (ticks.name, POLICIES[ticks.policy], node_module.PAYLOADS[ticks.payload]) == (b"ticks.eur", "latest", "json")
    assert (news.name, POLICIES[news.policy], node_module.PAYLOADS[news.payload]) == (b"news", "disconnect", "any")


def test_a_channel_is_looked_up_once(node: Node) -> None:
    assert node.channel("ticks.eur") is node.channel("ticks.eur")


def test_ever_new_channel_names_do_not_fill_the_memory(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "CACHED_CHANNELS", 10)
    for number in range(95):
        assert node.channel(f"ticks.{number}").payload == 1
    assert len(node.known) <= 10


@pytest.mark.parametrize("name", ["ticks.eur", "words", "bytes"])
def test_subscribing_hands_the_channels_settings_to_the_native_core(
    node: Node, reactor: FakeReactor, name: str
) -> None:
    channel = node.channel(name)
    assert node.subscribe(7, channel, receives=True, sends=False)
    assert reactor.calls == [("subscribe", 7, name.encode(), channel.policy, channel.payload, True, False)]
    assert not node.subscribe(7, channel, receives=True, sends=False)
    assert node.unsubscribe(7, name)
    assert not node.unsubscribe(7, name)


def test_a_publication_reaches_the_engine_with_everything_it_came_with(node: Node, engine: FakeEngine) -> None:
    receipt = node.publish(node.channel("news"), KIND_TEXT, b"hi", b',"id":"1"', 7, False)
    assert receipt == Receipt(1)
    assert engine.taken == [Publication(b"news", KIND_TEXT, b"hi", b',"id":"1"', 7, False)]


def test_what_the_engine_delivers_goes_to_the_hub_unchanged(node: Node, reactor: FakeReactor) -> None:
    assert node.deliver(Publication(b"news", KIND_BINARY, b"\xff", b"", 7, False)) == 5
    assert reactor.calls == [("publish", 7, b"news", KIND_BINARY, b"\xff", b"", False)]


def test_the_engine_decides_whether_raw_messages_pass_it_by(node: Node, engine: FakeEngine) -> None:
    assert node.direct
    engine.direct = False
    assert not node.direct


@pytest.mark.parametrize(
    ("name", "kind", "taken"),
    [
        ("news", KIND_JSON, True),
        ("news", KIND_TEXT, True),
        ("news", KIND_BINARY, True),
        ("ticks.eur", KIND_JSON, True),
        ("ticks.eur", KIND_TEXT, False),
        ("ticks.eur", KIND_BINARY, False),
        ("words", KIND_JSON, False),
        ("words", KIND_TEXT, True),
        ("words", KIND_BINARY, False),
        ("bytes", KIND_JSON, False),
        ("bytes", KIND_TEXT, False),
        ("bytes", KIND_BINARY, True),
    ],
)
def test_a_channel_takes_its_kind_of_payload_and_no_other(
    node: Node, engine: FakeEngine, name: str, kind: int, taken: bool
) -> None:
    if taken:
        node.publish(node.channel(name), kind, b"1")
        assert len(engine.taken) == 1
    else:
        with pytest.raises(PayloadError, match="payloads only") as refused:
            node.publish(node.channel(name), kind, b"1")
        assert refused.value.word == "wrong_payload_kind"
        assert engine.taken == []


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[[[[[1]]]]]", b'"\\ud800"', b'"\xff"', b"NaN", b"1e999", b"1 2"],
    ids=["nothing", "half", "too deep", "lone surrogate", "not UTF-8", "NaN", "too large", "two values"],
)
def test_json_that_some_format_could_not_hold_never_reaches_the_engine(
    node: Node, engine: FakeEngine, payload: bytes
) -> None:
    with pytest.raises(PayloadError) as refused:
        node.publish(node.channel("news"), KIND_JSON, payload)
    assert refused.value.word == "bad_payload"
    assert refused.value.text
    assert engine.taken == []


def test_json_as_deep_as_it_may_be_passes(node: Node, engine: FakeEngine) -> None:
    node.publish(node.channel("news"), KIND_JSON, b"[[[[1]]]]")
    assert engine.taken[0].payload == b"[[[[1]]]]"


def test_what_the_engine_refuses_is_the_publishers_to_handle(node: Node, engine: FakeEngine) -> None:
    engine.answer = EngineError("engine_unavailable")
    with pytest.raises(EngineError):
        node.publish(node.channel("news"), KIND_TEXT, b"hi")


def test_raw_subscribers_of_a_hole_are_ended_and_json_ones_told(node: Node, reactor: FakeReactor) -> None:
    ended: list[int] = []
    node.on_hole = ended.extend
    node.missed(b"news", 3)
    assert ended == []
    node.missed(b"news", None)
    assert ended == [7, 8]
    assert reactor.calls == [("missed", b"news", 3), ("missed", b"news", None)]


def test_only_a_channel_with_presence_has_members(node: Node, engine: FakeEngine) -> None:
    node.enter(node.channel("words"), "s1", "ann", None)
    assert engine.present == {}
    node.enter(node.channel("room"), "s1", "ann", b'{"name":"Ann"}')
    member = Member("s1", "ann", b'{"user":"ann","info":{"name":"Ann"}}')
    assert engine.present == {(b"room", "s1"): member}
    assert node.present(node.channel("room")) == Present((member.body,), 1, False)


def test_a_session_leaves_what_it_entered_once_and_nothing_else(node: Node, engine: FakeEngine) -> None:
    node.enter(node.channel("room"), "s1", None, None)
    node.enter(node.channel("room"), "s2", None, None)
    node.exit("room", "s1")
    node.exit("room", "s1")
    node.exit("words", "s2")
    assert list(node.members()) == [(b"room", Member("s2", None, b'{"user":null,"session":"s2"}'))]
    node.end("s2")
    node.end("s2")
    node.end("s3")
    assert engine.present == {}
    assert list(node.members()) == []


def test_joins_and_leaves_are_encoded_once_and_told_to_the_channel(node: Node, reactor: FakeReactor) -> None:
    node.presence(b"room", PresenceEvent("join", (b'{"user":"ann"}', b'{"user":"bob"}'), 7, 12))
    node.presence(b"room", PresenceEvent("leave", (), 3, 9))
    assert reactor.calls == [
        (
            "tell",
            b"room",
            b'{"type":"join","channel":"room","members":[{"user":"ann"},{"user":"bob"}],"count":12,"more":7}',
        ),
        ("tell", b"room", b'{"type":"leave","channel":"room","members":[],"count":9,"more":3}'),
    ]


def test_lost_joins_and_leaves_are_no_hole_to_those_who_never_hear_them(node: Node, reactor: FakeReactor) -> None:
    ended: list[list[int]] = []
    node.on_hole = ended.append
    node.missed(b"room", 0)
    assert reactor.calls == [("missed", b"room", 0)]
    assert ended == []


def test_a_full_queue_is_caught_up_from_the_history_unless_the_operator_says_otherwise(reactor: FakeReactor) -> None:
    channels = {
        "kept": ChannelPolicy(history_count=5, history_seconds=60.0, history_bytes=100),
        "strict": ChannelPolicy(history_count=5, queue="disconnect"),
    }
    node = Node(cast("Reactor", reactor), lambda sink: FakeEngine(), channels, 4)
    kept, strict = node.channel("kept"), node.channel("strict")
    assert (POLICIES[kept.policy], kept.history) == ("catch_up", HistoryRule(5, 60.0, 100))
    assert POLICIES[strict.policy] == "disconnect"
    assert node.channel("live").history is None


def test_a_hole_that_does_no_harm_ends_no_raw_subscriber(reactor: FakeReactor) -> None:
    ended: list[int] = []
    node = Node(cast("Reactor", reactor), lambda sink: FakeEngine(), {"clock": ChannelPolicy(raw_gap="ignore")}, 4)
    node.on_hole = ended.extend
    node.missed(b"clock", None)
    assert ended == []
    node.missed(b"news", None)
    assert ended == [7, 8]


def test_a_history_channel_is_never_published_to_by_the_native_core(reactor: FakeReactor) -> None:
    node = Node(cast("Reactor", reactor), lambda sink: FakeEngine(), {"kept": ChannelPolicy(history_count=5)}, 4)
    assert node.subscribe(7, node.channel("kept"), receives=True, sends=True)
    assert node.subscribe(7, node.channel("live"), receives=True, sends=True)
    assert [call[-1] for call in reactor.calls] == [False, True]
