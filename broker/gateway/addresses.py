"""Whose connection it is: the peer's own address, or what a trusted proxy says of it.

Used by the admission once for each upgrade, only where the operator has configured proxies. Reads `Forwarded` (RFC
7239) strictly and `X-Forwarded-For` as far as it is made of addresses; both from the right, because only what trusted
proxies have appended is worth anything. A client whose proxy does not say who it is counts as the proxy.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence

from broker.config.schema import ClientAddress
from broker.config.values import parse_network

# RFC 7239 section 4: forwarded-pair = token "=" ( token / quoted-string ).
_PAIR = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\]|\\.)*)\")")
_BETWEEN = re.compile(r"[ \t]*")
# IPv4 with or without a port, IPv6 in brackets likewise (section 6); X-Forwarded-For also has IPv6 bare.
_NODE = re.compile(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")


def address_key(address: str) -> str:
    """What an address counts as: IPv6 by its /64, which is what one customer of a provider has."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"


def read_forwarded(text: str) -> list[str | None] | None:
    """The `for` of each element, in order; None in the list where an element has none. None if this is no Forwarded."""
    found: list[str | None] = []
    at = 0
    while True:
        at = _skip(text, at)
        names: dict[str, str] = {}
        while at < len(text) and text[at] != ",":
            pair = _PAIR.match(text, at)
            if pair is None or pair[1].lower() in names:
                return None
            quoted = pair[3]
            names[pair[1].lower()] = pair[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = _skip(text, pair.end())
            if at < len(text) and text[at] == ";":
                at = _skip(text, at + 1)
            elif at < len(text) and text[at] != ",":
                return None
        if names:  # empty elements of a list are ignored: RFC 9110 section 5.6.1.2
            found.append(names.get("for"))
        if at == len(text):
            return found
        at += 1


def _skip(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return at if match is None else match.end()


def read_node(text: str, *, bare: bool) -> str | None:
    """The address of a node, normalised; None if it is unknown, obfuscated or nonsense. `bare`: IPv6 without brackets
    is one too.
    """
    match = _NODE.fullmatch(text)
    try:
        if match is None:
            return str(ipaddress.IPv6Address(text)) if bare and "%" not in text else None
        return str(ipaddress.IPv4Address(match[1]) if match[1] else ipaddress.IPv6Address(match[2]))
    except ValueError:
        return None


class Addresses:
    """`proxies`: addresses and networks that are believed. `source`: which header they write."""

    def __init__(self, proxies: Iterable[str], source: ClientAddress) -> None:
        self._networks = [parse_network(text) for text in proxies]
        self.source = source

    def trusted(self, address: str | None) -> bool:
        if address is None or not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)

    def client(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The rightmost address that is no trusted proxy's, or the last one before somebody did not say. Several header
        lines are one list (RFC 9110 section 5.3).
        """
        if self.source == "peer" or not self.trusted(peer):
            return peer
        name = b"forwarded" if self.source == "forwarded" else b"x-forwarded-for"
        value = ",".join(value.decode("latin-1") for key, value in headers if key == name)
        return self._walk(peer, self._nodes(value))

    def _nodes(self, value: str) -> Sequence[str | None]:
        if self.source == "forwarded":
            nodes = read_forwarded(value)
            return [None if node is None else read_node(node, bare=False) for node in nodes or ()]
        return [read_node(node.strip(" \t"), bare=True) for node in value.split(",") if node.strip(" \t")]

    def _walk(self, peer: str, nodes: Sequence[str | None]) -> str:
        address = peer
        for node in reversed(nodes):
            if node is None or not self.trusted(address):
                break
            address = node
        return address
