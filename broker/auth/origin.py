"""Which pages may open a connection: the defence against cross-site WebSocket hijacking (RFC 6455 section 10.2).

The gateway asks once per handshake, before anything else is read from the request. Browsers send an Origin that page
script cannot change; other clients can send any, so an Origin that is allowed proves nothing about who they are.
"""

from collections.abc import Iterable

from broker.config.values import LOOPBACK_NAMES, parse_origin, parse_origin_rule


class OriginRule:
    """A compiled list of origins. Compares scheme, host and port, lower-cased and with the default port filled in."""

    __slots__ = ("_allowed", "_any", "_dev", "_domains", "_null", "allow_absent")

    def __init__(self, origins: Iterable[str] = (), *, dev: bool = False, allow_absent: bool = True) -> None:
        """`origins` as in server.origins; `dev` adds http(s)://localhost, 127.0.0.1 and [::1] on every port."""
        listed = list(origins)
        # "null" is what sandboxed frames, data: URLs and files send: anybody can make a page that sends it, so it is
        # never allowed by "*" or dev, only by name.
        self._null = "null" in listed
        self._any = "*" in listed
        self._dev = dev
        rules = [parse_origin_rule(origin) for origin in listed if origin not in ("null", "*")]
        self._allowed = frozenset(rule for rule in rules if not rule[1].startswith("*."))
        # (scheme, ".domain", port): the dot in front keeps evilexample.com out of *.example.com.
        self._domains = tuple((scheme, host[1:], port) for scheme, host, port in rules if host.startswith("*."))
        self.allow_absent = allow_absent

    def allows(self, origin: bytes | None) -> bool:
        """Judges the value of the Origin header; None if the request had none."""
        if origin is None:
            return self.allow_absent
        if origin == b"null":
            return self._null
        return self._judge(origin, self._any)

    def names(self, origin: bytes | None) -> bool:
        """Whether pages of this origin are meant, not merely let in by "*" or as "null": only with them may what the
        browser sends by itself, its cookies, say who somebody is.
        """
        return origin is not None and origin != b"null" and self._judge(origin, False)

    def _judge(self, origin: bytes, well_formed_is_enough: bool) -> bool:
        try:
            parsed = scheme, host, port = parse_origin(origin.decode("ascii"))
        except ValueError:  # not an origin, or not ASCII (browsers send punycode)
            return False
        if well_formed_is_enough or parsed in self._allowed:
            return True
        if any(
            scheme == one and port == at and host.endswith(domain) and not host.startswith(".")
            for one, domain, at in self._domains
        ):
            return True
        return self._dev and scheme in ("http", "https") and host in LOOPBACK_NAMES
