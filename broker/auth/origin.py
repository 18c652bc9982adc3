"""Which pages may open a connection: the defence against cross-site WebSocket hijacking (RFC 6455 section 10.2).

The gateway asks once per handshake, before anything else is read from the request. Browsers send an Origin that page
script cannot change; other clients can send any, so an Origin that is allowed proves nothing about who they are.
"""

from collections.abc import Iterable

from broker.config.values import LOOPBACK_NAMES, parse_origin


class OriginRule:
    """A compiled list of origins. Compares scheme, host and port, lower-cased and with the default port filled in."""

    __slots__ = ("_allowed", "_any", "_dev", "_null", "allow_absent")

    def __init__(self, origins: Iterable[str] = (), *, dev: bool = False, allow_absent: bool = True) -> None:
        """`origins` as in server.origins; `dev` adds http(s)://localhost, 127.0.0.1 and [::1] on every port."""
        listed = list(origins)
        # "null" is what sandboxed frames, data: URLs and files send: anybody can make a page that sends it, so it is
        # never allowed by "*" or dev, only by name.
        self._null = "null" in listed
        self._any = "*" in listed
        self._dev = dev
        self._allowed = frozenset(parse_origin(origin) for origin in listed if origin not in ("null", "*"))
        self.allow_absent = allow_absent

    def allows(self, origin: bytes | None) -> bool:
        """Judges the value of the Origin header; None if the request had none."""
        if origin is None:
            return self.allow_absent
        if origin == b"null":
            return self._null
        try:
            parsed = parse_origin(origin.decode("ascii"))
        except ValueError:  # not an origin, or not ASCII (browsers send punycode)
            return False
        if self._any or parsed in self._allowed:
            return True
        return self._dev and parsed[0] in ("http", "https") and parsed[1] in LOOPBACK_NAMES
