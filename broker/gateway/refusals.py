"""How a connection is told no: HTTP problem documents, Close payloads, and the choice between the two.

A page never learns the HTTP status of a refused handshake (WHATWG: script sees code 1006). So a browser is refused by
accepting it and closing with a code and a reason, held back for a moment, until its address is refused too often.
Bodies and reasons are fixed texts: nothing a client sent is repeated.
"""

import http
import math
import random
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from broker.config.schema import Limits
from broker.gateway.addresses import address_key
from broker.native._connection import CAUSES, FIRST_POLICY_CAUSE_INDEX
from broker.native._frames import FAILURES
from broker.protocol.close_codes import BY_WORD, CLOSE_CODES, CloseCode, reason

WINDOW_SECONDS = 60.0
# Addresses remembered at once; beyond it the oldest half is forgotten, which only errs towards friendliness.
MAX_ADDRESSES = 16_384


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457."""

    title: str
    status: int
    detail: str | None = None
    code: str | None = None


def response(status: int, body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    """A whole HTTP response. The connection always closes: nothing unread may be taken for a second request."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Served(NamedTuple):
    """A file as two whole HTTP responses: with its bytes, and for whoever has them already."""

    whole: bytes
    etag: bytes
    unchanged: bytes

    def answer(self, if_none_match: bytes | None) -> bytes:
        # Weak comparison (RFC 9110 section 13.1.2): a proxy that compressed the body made the tag weak.
        tags = [tag.strip().removeprefix(b"W/") for tag in (if_none_match or b"").split(b",")]
        return self.unchanged if self.etag in tags or tags == [b"*"] else self.whole


def served(body: bytes, headers: tuple[tuple[str, str], ...], etag: str) -> Served:
    headers = (*headers, ("ETag", etag))
    # The head of a 304 is that of the 200, its Content-Length too (RFC 9110 section 8.6); a body it never has.
    unchanged = response(304, body, headers)
    return Served(response(200, body, headers), etag.encode(), unchanged[: len(unchanged) - len(body)])


_EXTRA_HEADERS: dict[int, tuple[tuple[str, str], ...]] = {
    405: (("Allow", "GET"),),
    # RFC 6455 section 4.2.2 asks for the version, RFC 9110 section 15.5.22 for Upgrade.
    426: (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
    503: (("Retry-After", "5"),),
}


def problem(status: int, detail: str | None, code: str | None = None, retry_after_seconds: int | None = None) -> bytes:
    """A refusal as a whole HTTP response with a problem document."""
    body = msgspec.json.encode(Problem(http.HTTPStatus(status).phrase, status, detail, code))
    retry = () if retry_after_seconds is None else (("Retry-After", str(retry_after_seconds)),)
    extra = (*_EXTRA_HEADERS.get(status, ()), *retry)
    return response(status, body, (("Content-Type", "application/problem+json"), *extra))


def close_payload(row: CloseCode, in_ms: int | None = None, text: str | None = None) -> bytes:
    """The body of a Close frame."""
    return row.code.to_bytes(2) + reason(row, in_ms, text)


# The cause under which a Close of the gateway's own is counted, by its word.
CAUSE_WORDS: tuple[str, ...] = tuple(
    row.word
    for row in CLOSE_CODES
    if (row.word not in CAUSES and row.code >= 4000) or row.code in (1000, 1001, 1003, 1012, 1013)
)
CAUSE_OF = {word: FIRST_POLICY_CAUSE_INDEX + index for index, word in enumerate(CAUSE_WORDS)}
# The native core closes for the same reason, and counts it.
CAUSE_OF["rate_limited"] = CAUSES.index("rate_limited")
_WORD_OF = dict(enumerate(CAUSES)) | {cause: word for word, cause in CAUSE_OF.items()}


def cause_word(cause: int) -> str:
    """Why a connection ended, for people."""
    return _WORD_OF.get(cause, f"cause {cause}")


_NATIVE_WORDS = {
    "message_timeout": "message_timeout",
    "pong_timeout": "pong_timeout",
    "write_timeout": "too_slow",
    "too_slow": "too_slow",
    "memory": "memory_pressure",
    "callback_error": "internal_error",
}


def refill_ms(limits: Limits) -> int:
    """How long a connection's buckets take to fill. Whoever comes back after it has no more by reconnecting."""
    pairs = ((limits.message_burst, limits.messages_per_second), (limits.byte_burst, limits.bytes_per_second))
    return max((-(-burst * 1000 // rate) for burst, rate in pairs if rate), default=0)


def native_closes(limits: Limits | None = None) -> list[bytes]:
    """The Close payload of each cause that the native core finds by itself, by index; FULL is answered in HTTP."""
    closes = [b""] * len(CAUSES)
    for cause, word in _NATIVE_WORDS.items():
        closes[CAUSES.index(cause)] = close_payload(BY_WORD[word])
    closes[CAUSES.index("rate_limited")] = close_payload(BY_WORD["rate_limited"], refill_ms(limits or Limits()))
    closes[CAUSES.index("full")] = problem(503, "this server holds as many connections as it may", "overloaded")
    for code, word, text in FAILURES[1:]:
        closes[CAUSES.index(word)] = code.to_bytes(2) + f"code={word};{text}".encode()
    return closes


class Rate:
    """Counts events per key within the last minute, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def count(self, key: str) -> int:
        """This event's number within the key's minute, from 1."""
        now = self._clock()
        since, count = self._seen.pop(key, (now, 0))
        if now - since >= WINDOW_SECONDS:
            since, count = now, 0
        if len(self._seen) >= MAX_ADDRESSES:
            for old in list(self._seen)[: MAX_ADDRESSES // 2]:
                del self._seen[old]
        self._seen[key] = (since, count + 1)
        return count + 1

    def blocked(self, key: str, most: int) -> int:
        """Seconds until the key's minute is over, if it has more events than `most` in it; else 0."""
        since, count = self._seen.get(key, (0.0, 0))
        left = since + WINDOW_SECONDS - self._clock()
        return math.ceil(left) if count > most and left > 0 else 0


class Refusals:
    """Chooses between a Close that a page can read and a plain status."""

    def __init__(self, style: str, per_minute: int, hold_min_seconds: float, hold_max_seconds: float) -> None:
        self._style = style
        self._per_minute = per_minute
        self._hold = (hold_min_seconds, hold_max_seconds)
        self._rate = Rate()

    def readable(self, origin: bytes | None, offered: bool, answer: bytes | None, address: str | None) -> bool:
        """Whether to accept and close. Not possible when something was offered of which nothing may be answered."""
        if offered and answer is None:
            return False
        if self._style == "auto":
            return origin is not None and self._rate.count(address_key(address or "")) <= self._per_minute
        return self._style == "close"

    def hold_seconds(self) -> float:
        return random.uniform(*self._hold)
