"""Every close code this broker sends: number, word, text and what the client does next.

Used by the gateway, the worker and, through `BY_WORD`, by whoever turns a native failure into a Close frame.
The number alone tells a client what to do, also a number it has never seen: 41xx come back later (back off with
jitter), 42xx come back now, 45xx never. pusher-js and centrifuge-js read these bands the same way. The last two digits
follow HTTP where HTTP has such a status. The word doubles as metric label, so it never holds anything a client wrote.
"""

from typing import Literal

import msgspec

Retry = Literal["later", "now", "never", "rfc"]

# RFC 6455 section 5.5: a control frame carries at most 125 bytes, two of which are the code.
MAX_REASON_BYTES = 123

# RFC 6455 section 7.4.1: these describe what one side saw and must not be sent.
NEVER_SENT = frozenset({1004, 1005, 1006, 1015})


class CloseCode(msgspec.Struct, frozen=True, gc=False):
    """One row: a code may have several words (why exactly), a word has one code."""

    code: int
    word: str
    text: str
    retry: Retry


CLOSE_CODES: tuple[CloseCode, ...] = (
    # RFC 6455 section 7.4.1 and the IANA registry. "rfc": whether to come back is the page's own decision.
    # What the frame parser finds keeps its words (FAILURES in broker/native/_frames.pyx; a test compares them).
    CloseCode(1000, "normal", "closed as asked", "rfc"),
    CloseCode(1001, "going_away", "the server process ends", "later"),
    CloseCode(1002, "frame_unmasked", "frame is not masked", "never"),
    CloseCode(1002, "frame_reserved_bits", "reserved bit set without an extension", "never"),
    CloseCode(1002, "frame_opcode", "unknown opcode", "never"),
    CloseCode(1002, "control_fragmented", "control frame is fragmented", "never"),
    CloseCode(1002, "control_too_long", "control frame is longer than 125 bytes", "never"),
    CloseCode(1002, "length_most_significant_bit", "most significant bit of the payload length is set", "never"),
    CloseCode(1002, "length_not_minimal", "payload length is not minimally encoded", "never"),
    CloseCode(1002, "continuation_unexpected", "continuation frame without a message", "never"),
    CloseCode(1002, "continuation_expected", "new message inside a fragmented one", "never"),
    CloseCode(1002, "close_body", "close frame body is one byte", "never"),
    CloseCode(1002, "close_code", "invalid close code", "never"),
    CloseCode(1003, "unsupported_data", "this connection takes text frames only", "never"),
    CloseCode(1007, "text_not_utf8", "text message is not UTF-8", "never"),
    CloseCode(1007, "close_reason_not_utf8", "close reason is not UTF-8", "never"),
    CloseCode(1008, "policy_violation", "a rule of this server was broken", "never"),
    CloseCode(1009, "message_too_big", "message is too big", "never"),
    CloseCode(1009, "too_many_fragments", "message has too many fragments", "never"),
    CloseCode(1011, "internal_error", "the server made a mistake", "later"),
    CloseCode(1011, "no_memory", "out of memory", "later"),
    CloseCode(1012, "service_restart", "the server restarts", "later"),
    CloseCode(1013, "overloaded", "the server is overloaded", "later"),
    # 41xx: the same request may succeed after a pause.
    CloseCode(4103, "engine_unavailable", "nothing can be published at the moment", "later"),
    CloseCode(4104, "outcome_unknown", "nobody knows whether the last messages were published", "later"),
    CloseCode(4107, "memory_pressure", "the server ran short of memory and this reader was furthest behind", "later"),
    CloseCode(4108, "too_slow_again", "too slow for its channels three times within a minute", "later"),
    CloseCode(4118, "message_timeout", "a message was begun and not completed in time", "later"),
    CloseCode(4129, "rate_limited", "too much in too short a time", "later"),
    # 42xx: nothing is wrong with the request; what was missed is worth fetching at once.
    CloseCode(4208, "too_slow", "the connection took its messages too slowly", "now"),
    CloseCode(4210, "replaced", "another connection took this one's place", "now"),
    CloseCode(4218, "pong_timeout", "no answer to a ping", "now"),
    CloseCode(4219, "token_expired", "the token has expired; fetch a new one", "now"),
    # 45xx: the same request will fail again.
    CloseCode(4500, "bad_offer", "the offer cannot be understood", "never"),
    CloseCode(4501, "not_authenticated", "a valid token is needed", "never"),
    CloseCode(4503, "not_permitted", "not allowed for this connection", "never"),
    CloseCode(4505, "cannot_publish", "nothing in the offer of this connection takes messages", "never"),
    CloseCode(4510, "disconnected_by_operator", "disconnected by the operator", "never"),
    CloseCode(4520, "bad_command", "this format takes commands, each one JSON object", "never"),
    CloseCode(4522, "bad_payload", "the channel does not take this kind of payload", "never"),
)

BY_WORD: dict[str, CloseCode] = {row.word: row for row in CLOSE_CODES}

# First row of a code is the general one; `retry_class` relies on rows of one code agreeing (tested).
_RETRY_BY_CODE: dict[int, Retry] = {row.code: row.retry for row in reversed(CLOSE_CODES)}


def retry_class(code: int) -> Retry:
    """What a client does after `code`, for any code at all: known row first, then the band."""
    known = _RETRY_BY_CODE.get(code)
    if known is not None:
        return known
    if code in (1006, 1015):
        # What a browser reports for a lost connection or failed TLS: try again, but not at once.
        return "later"
    if 4100 <= code < 4200:
        return "later"
    if 4200 <= code < 4300:
        return "now"
    if 4500 <= code < 4600:
        return "never"
    return "rfc"


def reason(row: CloseCode, in_ms: int | None = None, text: str | None = None) -> bytes:
    """The reason of a Close frame: `code=<word>;in_ms=<n>;<text>`, cut to 123 bytes between two characters.

    `in_ms` is left out when the server has no opinion. `text` replaces the row's own text and must be the server's
    words, never the client's.
    """
    pause = "" if in_ms is None else f"in_ms={max(0, in_ms)};"
    full = f"code={row.word};{pause}{row.text if text is None else text}".encode("utf-8", "replace")
    if len(full) <= MAX_REASON_BYTES:
        return full
    # "ignore" drops only the character that the cut went through: everything before it was valid.
    return full[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
