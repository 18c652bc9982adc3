"""Which place each channel pattern has among the pattern counters of the shared page.

A place is given once and never to another pattern, whatever a reload brings: what it counted stays that pattern's.
Called by whoever starts workers; they are told the places and count by number.
"""

from collections.abc import Iterable, Mapping

from broker.native._counters import PATTERN_PLACES

# Of channels that no pattern matches, and of patterns for which no place is left. No pattern has parentheses.
NONE, OTHER = 0, PATTERN_PLACES - 1
NONE_NAME, OTHER_NAME = "(none)", "(other)"


class PatternPlaces:
    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def assign(self, patterns: Iterable[str]) -> Mapping[str, int]:
        """The place of each of these patterns; those that have had one keep it."""
        for pattern in patterns:
            if pattern not in self._places:
                self._places[pattern] = min(len(self._places) + 1, OTHER)
        return {pattern: self._places[pattern] for pattern in patterns}

    def names(self) -> Mapping[int, str]:
        """The label of each place that somebody may have counted in."""
        found = {NONE: NONE_NAME}
        for pattern, place in self._places.items():
            found[place] = pattern if place != OTHER else OTHER_NAME
        return found
