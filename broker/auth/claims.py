"""What a token or the site's answer says about a client, member by member: checked, and bounded.

Used by `tokens` and `hook` on values whose origin is proven already. Each function raises ClaimError with a text that
follows the member's name and never holds its value.
"""

import unicodedata

import msgspec

from broker.protocol.names import MAX_NAME_BYTES

# A user's id is a segment of channel names ({sub}), so one that is longer could name no channel.
MAX_USER_CHARACTERS = MAX_NAME_BYTES
# As many as one `subscribe` command may name.
MAX_PATTERNS = 1024
# The year 10000. What is beyond is no date but a mistake: milliseconds, or no expiry wanted.
MAX_UNIX_SECONDS = 253_402_300_800.0

# Control characters, and what ends a line elsewhere: an id is shown in logs and lists.
_LINE_BREAKING = frozenset({"Cc", "Zl", "Zp", "Cs"})

Raw = msgspec.Raw
Members = dict[str, msgspec.Raw]


class ClaimError(Exception):
    pass


def members(data: bytes) -> Members:
    """A JSON object, each member still encoded."""
    try:
        return msgspec.json.decode(data, type=Members)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ClaimError("is no JSON object") from None


def is_null(raw: Raw) -> bool:
    return bytes(raw) == b"null"


def user(raw: Raw) -> str:
    try:
        text = msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClaimError("must be a string") from None
    if not text:
        raise ClaimError("must not be empty")
    if len(text) > MAX_USER_CHARACTERS:
        raise ClaimError(f"must not be longer than {MAX_USER_CHARACTERS} characters")
    if any(unicodedata.category(character) in _LINE_BREAKING for character in text):
        raise ClaimError("must not hold control characters")
    return text


def info(raw: Raw | None, max_bytes: int) -> bytes | None:
    """Any JSON, encoded without spaces; null = nothing."""
    if raw is None:
        return None
    try:
        value = msgspec.json.decode(raw)
        encoded = msgspec.json.encode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ClaimError("is no JSON that every client can read") from None
    if len(encoded) > max_bytes:
        raise ClaimError(f"must not be longer than {max_bytes} bytes")
    return None if value is None else encoded


def names(raw: Raw | None, most: int = MAX_PATTERNS) -> tuple[str, ...]:
    """A list of channel names or patterns; whether each is one is judged by who compiles it."""
    if raw is None:
        return ()
    try:
        listed = msgspec.json.decode(raw, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClaimError("must be a list of strings") from None
    if len(listed) > most:
        raise ClaimError(f"must not name more than {most} channels")
    if any(len(name) > MAX_NAME_BYTES for name in listed):
        raise ClaimError(f"must not hold a name longer than {MAX_NAME_BYTES} characters")
    return listed


def text(raw: Raw | None) -> str | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClaimError("must be a string") from None


def texts(raw: Raw | None) -> tuple[str, ...]:
    """One string or a list of them (RFC 7519 section 4.1.3)."""
    if raw is None:
        return ()
    try:
        value = msgspec.json.decode(raw, type=str | list[str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClaimError("must be a string or a list of strings") from None
    return (value,) if isinstance(value, str) else tuple(value)


def moment(raw: Raw) -> float:
    """Unix seconds, fractions allowed (RFC 7519 section 2, NumericDate)."""
    try:
        seconds = msgspec.json.decode(raw, type=float)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ClaimError("must be a number of seconds since 1970") from None
    if not 0 <= seconds < MAX_UNIX_SECONDS:
        raise ClaimError("must be seconds since 1970, not milliseconds, and before the year 10000")
    return seconds
