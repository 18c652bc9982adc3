"""Which strings are channel names: one rule for every door and for the API.

Used by the offer grammar, by in-band commands and by the HTTP API. It owns percent-decoding too, because a name is
judged only after decoding. It never looks at patterns or permissions.
"""

import re

MAX_NAME_BYTES = 255

# Prefixes of tokens that are not channels. A name that begins with one, in any letter case and before or after
# decoding, is refused: otherwise `%62earer.…` would be a channel, and would be logged and answered.
RESERVED_PREFIXES = ("broker.", "bearer.")

# Subscription wildcards and their roots; kept free however wide the operator makes names.
RESERVED_CHARACTERS = frozenset("*>")

_DEFAULT_CLASS = r"A-Za-z0-9_.:@+=~\-"
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_reserved(text: str) -> bool:
    """True if `text` begins with the prefix of a format or a credential."""
    return text[:7].lower() in RESERVED_PREFIXES


def percent_decode(text: str) -> str | None:
    """`text` with every %XX decoded (RFC 3986 section 2.1); None if a % stands alone or the bytes are not UTF-8."""
    if "%" not in text:
        return text
    if _BAD_PERCENT.search(text):
        return None
    first, *rest = text.split("%")
    decoded = bytearray(first, "utf-8", "surrogatepass")
    for piece in rest:
        decoded.append(int(piece[:2], 16))
        decoded += piece[2:].encode("utf-8", "surrogatepass")
    try:
        return decoded.decode("utf-8")
    except UnicodeDecodeError:
        return None


class NameRule:
    """1 to 255 bytes of `[A-Za-z0-9_.:@+=~-]` and of the characters the operator adds."""

    __slots__ = ("_accepts",)

    def __init__(self, extra: str = "") -> None:
        for character in extra:
            # isprintable() is False for control, format (bidi), unassigned and surrogate characters and for every
            # space but U+0020: such names look alike in logs and cannot be told apart on a page.
            if character in RESERVED_CHARACTERS or character == " " or not character.isprintable():
                raise ValueError(f"not allowed in channel names: {character!r}")
        self._accepts = re.compile(f"[{_DEFAULT_CLASS}{re.escape(extra)}]{{1,{MAX_NAME_BYTES}}}").fullmatch

    def accepts(self, name: str) -> bool:
        """True if `name` (already decoded) is a channel name."""
        return (
            self._accepts(name) is not None
            and not is_reserved(name)
            and name[0] != "$"
            and (name.isascii() or len(name.encode()) <= MAX_NAME_BYTES)
        )
