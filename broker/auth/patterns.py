"""Channel patterns: from a channel name to the settings of the most specific pattern that matches it.

Compiled once at start; the gateway and the node ask once per join and per new channel. Names are split at ".": a
literal segment matches itself, `*` and `{sub}` exactly one segment, a last `>` one or more. A segment may be empty
("a..b" has three). Whose id the segment of a `{sub}` has to be is no matter here: see `permissions`.

Most specific: read from the left, at the first segment where two matching patterns differ, literal beats `{sub}`, that
beats `*`, and `*` beats `>`. That is a total order, so the order in the configuration never matters.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar

from broker.config.values import SUB, parse_pattern

T = TypeVar("T")


class _Node(Generic[T]):
    __slots__ = ("children", "one", "own", "rest", "value")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.own: _Node[T] | None = None
        self.one: _Node[T] | None = None
        # Values sit in one-element tuples, so that None can be a value.
        self.rest: tuple[T] | None = None
        self.value: tuple[T] | None = None


class PatternTable(Generic[T]):
    """Immutable after construction. Raises ValueError for a string that is no pattern."""

    __slots__ = ("_root",)

    def __init__(self, patterns: Mapping[str, T]) -> None:
        self._root: _Node[T] = _Node()
        for pattern, value in patterns.items():
            self._add(parse_pattern(pattern), value)

    def _add(self, segments: tuple[str, ...], value: T) -> None:
        node = self._root
        for segment in segments:
            if segment == ">":
                node.rest = (value,)
                return
            if segment == SUB:
                if node.own is None:
                    node.own = _Node()
                node = node.own
            elif segment == "*":
                if node.one is None:
                    node.one = _Node()
                node = node.one
            else:
                node = node.children.setdefault(segment, _Node())
        node.value = (value,)

    def match(self, name: str) -> T | None:
        """The value of the most specific pattern that matches `name`, None if none does.

        Visits each node of the tree at most once, so its cost is bounded by the configuration, not by the name.
        """
        found = _find(self._root, name.split("."), 0)
        return None if found is None else found[0]


def _find(node: _Node[T], segments: list[str], depth: int) -> tuple[T] | None:
    if depth == len(segments):
        return node.value
    child = node.children.get(segments[depth])
    if child is not None:
        found = _find(child, segments, depth + 1)
        if found is not None:
            return found
    for single in (node.own, node.one):
        if single is not None:
            found = _find(single, segments, depth + 1)
            if found is not None:
                return found
    return node.rest
