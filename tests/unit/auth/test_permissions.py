"""Who hears and says what: the wrong answer here shows somebody's messages to somebody else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.auth.identity import ANONYMOUS, Identity
from broker.auth.permissions import Grants, Permissions
from broker.config.schema import ChannelPolicy, Who

ANN = Identity("ann")


def policies(channels: dict[str, Who]) -> Permissions:
    return Permissions({pattern: ChannelPolicy(who, who) for pattern, who in channels.items()})


def test_what_no_pattern_matches_is_refused_to_everybody() -> None:
    some = policies({"news": "anyone"})
    assert some.subscribe(ANN, "old") == "not_permitted"
    assert some.publish(ANONYMOUS, "old") == "not_permitted"
    assert policies({}).subscribe(ANN, "news") == "not_permitted"


@pytest.mark.parametrize(
    ("who", "anonymous", "ann", "granted"),
    [
        ("anyone", None, None, None),
        ("authenticated", "not_authenticated", None, None),
        ("claim", "not_authenticated", "not_permitted", None),
        ("server", "not_permitted", "not_permitted", "not_permitted"),
    ],
)
def test_each_word_admits_whom_it_says(who: Who, anonymous: str | None, ann: str | None, granted: str | None) -> None:
    some = policies({"news": who})
    holder = Identity("bob", subscribe=("news",), publish=("news",))
    for ask in (some.subscribe, some.publish):
        assert [ask(ANONYMOUS, "news"), ask(ANN, "news"), ask(holder, "news")] == [anonymous, ann, granted]


def test_a_grant_to_subscribe_is_none_to_publish() -> None:
    some = policies({">": "claim"})
    reader = Identity("ann", subscribe=("news",))
    assert some.subscribe(reader, "news") is None
    assert some.publish(reader, "news") == "not_permitted"


def test_the_most_specific_pattern_decides_alone() -> None:
    some = policies({">": "anyone", "room.*": "authenticated", "room.42": "server"})
    assert some.subscribe(ANONYMOUS, "news") is None
    assert some.subscribe(ANONYMOUS, "room.1") == "not_authenticated"
    assert some.subscribe(ANN, "room.42") == "not_permitted"


def test_nobody_reaches_the_channel_of_another_user_not_even_by_a_wider_pattern() -> None:
    some = policies({"user.{sub}": "authenticated", "user.*": "anyone", ">": "anyone"})
    assert some.subscribe(ANN, "user.ann") is None
    assert some.subscribe(ANN, "user.bob") == "not_permitted"
    assert some.subscribe(ANONYMOUS, "user.ann") == "not_authenticated"


@pytest.mark.parametrize("sub", ["*", ">", "{sub}", "a.b", "", "ann.>", "an*"])
def test_an_id_that_looks_like_a_pattern_widens_nothing(sub: str) -> None:
    some = policies({"user.{sub}": "authenticated", "mine.>": "claim"})
    hostile = Identity(sub, subscribe=("mine.{sub}", "mine.{sub}.>"))
    for name in ("user.ann", "user.bob", "mine.ann", "mine.ann.b", "mine.a.b.c", "mine.b"):
        assert some.subscribe(hostile, name) is not None, name


def test_a_claim_may_name_the_place_of_the_id() -> None:
    some = policies({">": "claim"})
    ann = Identity("ann", subscribe=("user.{sub}", "team.*.{sub}.>"))
    assert some.subscribe(ann, "user.ann") is None
    assert some.subscribe(ann, "team.7.ann.news") is None
    assert some.subscribe(ann, "team.7.bob.news") == "not_permitted"
    assert some.subscribe(ann, "team.7.ann") == "not_permitted"


def test_a_claim_that_is_no_pattern_grants_nothing_and_breaks_nothing() -> None:
    some = policies({">": "claim"})
    ann = Identity("ann", subscribe=("", "a*", ">.a", "$x", "news"))
    assert some.subscribe(ann, "news") is None
    assert some.subscribe(ann, "a1") == "not_permitted"


def test_a_hook_may_let_nobody_in_particular_in() -> None:
    assert policies({">": "claim"}).subscribe(Identity(None, subscribe=("news",)), "news") is None


def test_what_the_server_gives_is_given_but_never_what_belongs_to_somebody_else() -> None:
    some = policies({"user.{sub}": "server", "room.*": "server"})
    assert some.given(ANN, "user.ann")
    assert some.given(ANN, "room.1")
    assert not some.given(ANN, "user.bob")
    assert not some.given(ANN, "news")


def test_development_without_identities_permits_everything() -> None:
    some = Permissions({}, open=True)
    assert (some.subscribe(ANONYMOUS, "a"), some.publish(ANONYMOUS, "a"), some.given(ANONYMOUS, "a")) == (
        None,
        None,
        True,
    )


def test_the_same_answer_comes_from_the_table_of_answers() -> None:
    some = policies({"user.{sub}": "authenticated", "room.*": "claim"})
    holder = Identity("ann", subscribe=("room.1",))
    first = [some.subscribe(one, name) for one in (holder, ANN, ANONYMOUS) for name in ("user.ann", "room.1", "room.2")]
    assert first == [
        some.subscribe(one, name) for one in (holder, ANN, ANONYMOUS) for name in ("user.ann", "room.1", "room.2")
    ]


# Against the definition, one segment at a time; hostile ids and separators among the segments.

SEGMENTS = ["a", "b", "ann", "=a", "", "x,y"]
names = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(".".join)
users = st.sampled_from([None, "ann", "a", "*", ">", "{sub}", "a.b", "=a", ""])
patterns = st.tuples(
    st.lists(st.sampled_from([*SEGMENTS, "*", "{sub}"]), max_size=3), st.sampled_from([*SEGMENTS, "*", "{sub}", ">"])
).map(lambda parts: ".".join([*parts[0], parts[1]]))


def naive(pattern: list[str], name: list[str], user: str | None) -> bool:
    if not pattern:
        return not name
    if pattern == [">"]:
        return len(name) >= 1
    if not name:
        return False
    wanted = user if pattern[0] == "{sub}" else pattern[0]
    here = pattern[0] == "*" or wanted == name[0]
    return here and naive(pattern[1:], name[1:], user)


@given(st.lists(patterns, max_size=5), names, users)
@example(["=a.*"], "a.b", "a")
def test_grants_are_what_a_naive_reading_of_them_says(claim: list[str], name: str, user: str | None) -> None:
    expected = any(pattern != "" and naive(pattern.split("."), name.split("."), user) for pattern in claim)
    assert Grants(tuple(claim), user).allow(name) == expected


@given(st.lists(patterns, max_size=3), st.lists(patterns, max_size=3), names, users, users)
def test_two_identities_never_share_an_answer(
    one: list[str], other: list[str], name: str, ann: str | None, bob: str | None
) -> None:
    """CVE-2026-39972 in Mercure: a cache whose key joined strings answered one for the other."""
    shared = policies({">": "claim"})
    for patterns_of, user in ((one, ann), (other, bob), (one, bob), (other, ann)):
        identity = Identity(user, subscribe=tuple(patterns_of))
        alone = policies({">": "claim"})
        assert shared.subscribe(identity, name) == alone.subscribe(identity, name)


@pytest.mark.parametrize("between", ["", ".", ",", " ", "|", ":", "\0"])
def test_grants_that_read_the_same_one_after_the_other_are_not_the_same(between: str) -> None:
    """CVE-2026-39972 again, where the property above would have to be lucky."""
    some = policies({">": "claim"})
    two, one = Identity("ann", subscribe=("room.1", "2")), Identity("ann", subscribe=(f"room.1{between}2",))
    assert some.subscribe(two, "room.1") is None
    assert some.subscribe(one, "room.1") == "not_permitted"
    assert some.subscribe(Identity(f"2{between}ann", subscribe=("room.1",)), f"room.1{between}2") == "not_permitted"
