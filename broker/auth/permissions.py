"""Who may subscribe to and publish in which channel: the patterns of the configuration and the grants of an identity.

The most specific pattern of the configuration that fits a name decides alone (`patterns`); a name that none fits is
refused. What that pattern leaves to a claim is permitted if any pattern of the identity's fits: those are additions,
so there the most specific one has no say. `{sub}` is one literal segment, compared with the user's id and never read as
a pattern: an id of "*" or "a.>" widens nothing, and in the configuration nobody else reaches the channel, not even by a
less specific pattern.

Compiled at start; asked by the gateway once per join, per publish command, and again on resume and after a refresh.
"""

from collections.abc import Mapping

import msgspec

from broker.auth.identity import Identity
from broker.auth.patterns import PatternTable
from broker.config.schema import ChannelPolicy, Who
from broker.config.values import SUB, parse_pattern

# Names whose rule, and lists of patterns whose compiled form, are kept at hand; then the table starts anew.
CACHED_NAMES = 16_384
CACHED_GRANTS = 4096


class Rule(msgspec.Struct, frozen=True, gc=False):
    """What one pattern of the configuration says. `sub`: places of the segments that are the user's id."""

    subscribe: Who
    publish: Who
    sub: tuple[int, ...] = ()


class Permissions:
    """Raises ValueError for a key of `channels` that is no pattern. With `open`, everybody may do everything: --dev
    without identities.
    """

    def __init__(self, channels: Mapping[str, ChannelPolicy], *, open: bool = False) -> None:
        self._grants: dict[tuple[tuple[str, ...], str | None], Grants] = {}
        self.reload(channels, open=open)

    def reload(self, channels: Mapping[str, ChannelPolicy], *, open: bool = False) -> None:
        """Judges by these from now on; who is subscribed stays so until it is judged again."""
        self._table = PatternTable({pattern: _rule(pattern, policy) for pattern, policy in channels.items()})
        self._open = open
        self._rules: dict[str, Rule | None] = {}

    def subscribe(self, identity: Identity, name: str) -> str | None:
        """None = may, else a word of ERRORS. The name is one that `check_name` has passed."""
        if self._open:
            return None
        rule = self._rule(name)
        return (
            _NO_PATTERN if rule is None else self._judge(rule.subscribe, rule.sub, identity, identity.subscribe, name)
        )

    def publish(self, identity: Identity, name: str) -> str | None:
        """As `subscribe`."""
        if self._open:
            return None
        rule = self._rule(name)
        return _NO_PATTERN if rule is None else self._judge(rule.publish, rule.sub, identity, identity.publish, name)

    def given(self, identity: Identity, name: str) -> bool:
        """Whether the server may subscribe a connection to it: whoever signed `subs` has decided, but neither what no
        pattern fits nor what belongs to another user is given away by that.
        """
        if self._open:
            return True
        rule = self._rule(name)
        return rule is not None and _is_own(rule.sub, identity.user, name)

    def on_claim(self, name: str) -> bool:
        """Whether subscribing is a matter of claims, so that it is worth asking a hook for them."""
        rule = None if self._open else self._rule(name)
        return rule is not None and rule.subscribe == "claim"

    def _rule(self, name: str) -> Rule | None:
        try:
            return self._rules[name]
        except KeyError:
            if len(self._rules) >= CACHED_NAMES:
                self._rules.clear()
            rule = self._rules[name] = self._table.match(name)
            return rule

    def _judge(
        self, who: Who, sub: tuple[int, ...], identity: Identity, patterns: tuple[str, ...], name: str
    ) -> str | None:
        if who == "server":
            return "not_permitted"
        user = identity.user
        if sub and not _is_own(sub, user, name):
            return "not_permitted" if user is not None else "not_authenticated"
        if who == "anyone":
            return None
        if who == "authenticated":
            return None if user is not None else "not_authenticated"
        if self._compiled(patterns, user).allow(name):
            return None
        # Without an identity a token may still help; a hook can name channels for nobody in particular.
        return "not_permitted" if user is not None else "not_authenticated"

    def _compiled(self, patterns: tuple[str, ...], user: str | None) -> "Grants":
        # A tuple, not a joined string: two identities must never share a key (CVE-2026-39972 in Mercure).
        key = (patterns, user)
        found = self._grants.get(key)
        if found is None:
            if len(self._grants) >= CACHED_GRANTS:
                self._grants.clear()
            found = self._grants[key] = Grants(patterns, user)
        return found


_NO_PATTERN = "not_permitted"


class Grants:
    """The patterns of one identity, any of which may fit. One that is no pattern fits nothing."""

    __slots__ = ("_literal", "_patterns")

    def __init__(self, patterns: tuple[str, ...], user: str | None) -> None:
        literal: set[str] = set()
        wild: list[_Pattern] = []
        for text in patterns:
            try:
                segments = parse_pattern(text)
            except ValueError:
                continue
            if SUB in segments and user is None:
                continue
            if SUB in segments or "*" in segments or segments[-1] == ">":
                wild.append(_Pattern(segments, user))
            else:
                literal.add(text)
        self._literal = frozenset(literal)
        self._patterns = tuple(wild)

    def allow(self, name: str) -> bool:
        if name in self._literal:
            return True
        segments = name.split(".") if self._patterns else []
        return any(pattern.fits(segments) for pattern in self._patterns)


class _Pattern:
    __slots__ = ("_open_end", "_segments")

    def __init__(self, segments: tuple[str, ...], user: str | None) -> None:
        self._open_end = segments[-1] == ">"
        if self._open_end:
            segments = segments[:-1]
        # None = any. The user's id takes its place after the pattern was read, so that it stays a literal.
        self._segments = tuple(None if one == "*" else user if one == SUB else one for one in segments)

    def fits(self, segments: list[str]) -> bool:
        count = len(self._segments)
        if len(segments) <= count if self._open_end else len(segments) != count:
            return False
        return all(one is None or one == segment for one, segment in zip(self._segments, segments, strict=False))


def _is_own(sub: tuple[int, ...], user: str | None, name: str) -> bool:
    if not sub:
        return True
    segments = name.split(".")
    return user is not None and all(segments[place] == user for place in sub)


def _rule(pattern: str, policy: ChannelPolicy) -> Rule:
    segments = parse_pattern(pattern)
    sub = tuple(place for place, segment in enumerate(segments) if segment == SUB)
    return Rule(policy.subscribe, policy.publish, sub)
