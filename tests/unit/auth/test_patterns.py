"""Which settings a channel gets when several patterns match it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth.patterns import PatternTable

segment = st.sampled_from(["a", "b", ""])
names = st.lists(segment, min_size=1, max_size=5).map(".".join)


@st.composite
def pattern_strings(draw: st.DrawFn) -> str:
    middle = draw(st.lists(st.sampled_from(["a", "b", "", "*", "{sub}"]), min_size=0, max_size=4))
    end = draw(st.sampled_from(["a", "*", "{sub}", ">"]))
    return ".".join([*middle, end])


def naive_matches(pattern: list[str], name: list[str]) -> bool:
    """The definition, one segment at a time."""
    if not pattern:
        return not name
    if pattern == [">"]:
        return len(name) >= 1
    return bool(name) and pattern[0] in ("*", "{sub}", name[0]) and naive_matches(pattern[1:], name[1:])


def rank(pattern: str) -> list[int]:
    """Smaller is more specific, read from the left."""
    return [{"{sub}": 1, "*": 2, ">": 3}.get(segment, 0) for segment in pattern.split(".")]


@given(st.sets(pattern_strings(), max_size=8), names)
def test_a_channel_gets_the_most_specific_of_all_patterns_that_match_it(patterns: set[str], name: str) -> None:
    table = PatternTable({pattern: pattern for pattern in patterns})
    matching = [pattern for pattern in patterns if naive_matches(pattern.split("."), name.split("."))]
    assert table.match(name) == (min(matching, key=rank) if matching else None)


def test_the_order_in_the_file_does_not_matter() -> None:
    patterns = {"a.>": 1, "a.*": 2, "a.b": 3, "*.b": 4, ">": 5}
    backwards = dict(reversed(patterns.items()))
    for name, value in {"a.b": 3, "a.c": 2, "a.b.c": 1, "z.b": 4, "z": 5}.items():
        assert PatternTable(patterns).match(name) == PatternTable(backwards).match(name) == value


def test_a_less_specific_pattern_is_found_after_a_dead_end() -> None:
    table = PatternTable({"a.b.c": 1, "a.*.d": 2, ">": 3})
    assert (table.match("a.b.d"), table.match("a.b.e"), table.match("a.b")) == (2, 3, 3)


def test_one_or_more_segments_are_not_none() -> None:
    table = PatternTable({"a.>": 1})
    assert (table.match("a"), table.match("a.b"), table.match("a.b.c")) == (None, 1, 1)


def test_no_pattern_means_no_settings() -> None:
    assert PatternTable[int]({}).match("a") is None


def test_a_name_of_nothing_but_dots_costs_no_more_than_another() -> None:
    table = PatternTable({".".join(["*"] * 100): 1, ">": 2})
    assert table.match("." * 254) == 2


@pytest.mark.parametrize("pattern", ["", "a*", "a.b>", ">.a", "a.>.b", "**", "$sys.>", "*>"])
def test_a_pattern_that_would_not_mean_what_it_says_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|reserved|stand"):
        PatternTable({pattern: 1})
