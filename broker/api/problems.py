"""Every error of the HTTP API: its code, status and text, and the one place that makes problem documents (RFC 9457).

A code has one status wherever it occurs, and means what the same word means on a WebSocket (protocol/errors.py). Texts
are ours; `detail` may quote a field name of the request, which goes back to its own author and nowhere else.
docs/http-api.md lists the same codes (a test compares them).
"""

from http import HTTPStatus

import msgspec

from broker.protocol.errors import ERRORS

# After what time it is worth to come back, in seconds: an engine is back within its first few attempts to be started.
RETRY_SECONDS = 1

# What a client reads of a request field that is wrong; a body may name its fields as it likes, at any length.
MOST_DETAIL_CHARACTERS = 300

# code: (status, text). Texts of words that WebSockets know too are theirs.
PROBLEMS: dict[str, tuple[int, str]] = {
    # what the request says
    "bad_request": (400, "the request is not HTTP as this server reads it"),
    "bad_json": (400, "the body is not JSON"),
    "bad_field": (422, "the body or a parameter has a wrong, missing or unknown field"),
    "bad_channel": (422, ERRORS["bad_channel"]),
    "bad_payload": (422, ERRORS["bad_payload"]),
    "wrong_payload_kind": (415, ERRORS["wrong_payload_kind"]),
    "unsupported_type": (415, "this Content-Type says nothing of the payload"),
    "too_large": (413, "more than this server takes"),
    "head_too_large": (431, "the request line and headers are more than this server takes"),
    "request_timeout": (408, "the request was not complete in time"),
    # who asks
    "not_authenticated": (401, "a valid key is needed: Authorization: Bearer KEY"),
    "not_permitted": (403, "this key may not do that"),
    "origin_refused": (403, "pages may not use this API: keys do not belong in a browser"),
    "wrong_host": (421, "this server does not answer for this Host"),
    "rate_limited": (429, "more messages than this key may publish"),
    # what there is
    "not_found": (404, "there is nothing here"),
    "method_not_allowed": (405, "not with this method"),
    "no_history": (404, ERRORS["no_history"]),
    "not_supported": (404, "the channel has no presence"),
    # what the server can do
    "internal_error": (500, ERRORS["internal_error"]),
    "engine_unavailable": (503, ERRORS["engine_unavailable"]),
    "outcome_unknown": (504, "nobody knows whether it was done; the same message_id makes it safe to repeat"),
    "overloaded": (503, "too much at once; try again later"),
}

TYPE = b"application/problem+json"


class ProblemDocument(msgspec.Struct, frozen=True):
    """What an error looks like. `title` is the status in words, `detail` what is wrong, `code` is for programs."""

    title: str
    status: int
    detail: str
    code: str


class Problem(Exception):
    """Ends a request. `code` of PROBLEMS; `detail` None = the code's own text."""

    def __init__(self, code: str, detail: str | None = None, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.code = code
        self.status, text = PROBLEMS[code]
        self.detail = text if detail is None else detail[:MOST_DETAIL_CHARACTERS]
        self.headers = headers
        super().__init__(code)

    def body(self) -> bytes:
        return msgspec.json.encode(ProblemDocument(HTTPStatus(self.status).phrase, self.status, self.detail, self.code))

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Those that a response with `body` has, without its length."""
        headers = [(b"content-type", TYPE), *self.headers]
        if self.code == "not_authenticated":
            headers.append((b"www-authenticate", b'Bearer realm="ws-broker"'))  # RFC 9110 section 11.6.1
        if self.status in (429, 503) and not any(name == b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", b"%d" % RETRY_SECONDS))
        return headers
