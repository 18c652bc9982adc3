"""The opening handshake's request head: from bytes to a verdict.

Owns the strict reading of one HTTP/1.1 head (RFC 9112) and of the WebSocket handshake in it (RFC 6455 section 4.2.1). The reactor
calls `request_end` as bytes arrive and `request_parse` once; the gateway reads the `Request`. One connection carries one request,
so nothing here is lenient: what two parsers could read in two ways is refused. It never decides who may connect, never decodes
bytes to text, never negotiates an extension (a well-formed offer of any is ignored) and never writes an answer.
"""

import binascii
import hashlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from broker.native._header cimport (
    CLASS, DIGIT, TOKEN, VISIBLE, Fields, has_content, host_ok, key_ok, read_headers, run, version_of,
)

cdef object sha1 = hashlib.sha1
cdef object b2a_base64 = binascii.b2a_base64
cdef bytes GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

# Without its CRLF; nginx's large_client_header_buffers and Apache's LimitRequestLine stand at 8 KiB too.
cdef enum:
    REQUEST_LINE_MAX = 8192
    REQUEST_LINE_SEEN = 8194        # so many bytes without a LF are too many


# ---- finding the end ----------------------------------------------------------------------------------------------------------

cdef inline bint line_too_long(const uint8_t *data, size_t seen) noexcept nogil:
    if seen > <size_t>REQUEST_LINE_SEEN:
        seen = REQUEST_LINE_SEEN
    return memchr(data, c"\n", seen) == NULL


cdef long request_end(const uint8_t *data, size_t size, const RequestLimits *limits, uint32_t *scanned) noexcept nogil:
    cdef size_t end = size if size < limits.max_head_bytes else limits.max_head_bytes
    cdef size_t start = scanned[0] if scanned[0] < end else end
    cdef size_t at = start
    cdef uint64_t word
    if size == 0:
        return 0
    if not CLASS[data[0]] & TOKEN:  # a TLS hello, a stray frame, an empty line
        return -400
    while True:
        while end - at >= 8:
            memcpy(&word, data + at, 8)
            # Not zero exactly when some byte is below 0x20.
            if (word - <uint64_t>0x2020202020202020) & ~word & <uint64_t>0x8080808080808080:
                break
            at += 8
        while at < end and data[at] >= 0x20:
            at += 1
        if at == end:
            break
        if data[at] == c"\t":
            at += 1
            continue
        if data[at] != c"\r":
            return -400
        if at + 1 == end:
            break  # the cursor stays on the CR
        if data[at + 1] != c"\n":
            return -400
        at += 2
        if data[at - 3] == c"\n":  # at >= 3: the first byte was no CR; every LF before had its CR
            scanned[0] = <uint32_t>at
            if start < <size_t>REQUEST_LINE_SEEN <= at and line_too_long(data, at):
                return -414
            return <long>at
    scanned[0] = <uint32_t>at
    # Looked at once only, when the cursor crosses the limit, or when the request is refused anyway.
    if (start < <size_t>REQUEST_LINE_SEEN <= at or size >= limits.max_head_bytes) and line_too_long(data, at):
        return -414
    return -431 if size >= limits.max_head_bytes else 0


# ---- the verdict --------------------------------------------------------------------------------------------------------------

cdef Request refuse(Request request, int status, str problem):
    request.status = status
    request.problem = problem
    return request


cdef Request request_refused(int status):
    cdef Request request = Request.__new__(Request)
    request.head = request.path = request.query = b""
    if status == 414:
        return refuse(request, 414, "the request line is too long")
    if status == 431:
        return refuse(request, 431, "the request head is too large")
    return refuse(request, 400, "malformed HTTP request")


cdef Request request_parse(const uint8_t *data, size_t size, const RequestLimits *limits):
    cdef uint32_t scanned = 0
    cdef long end = request_end(data, size, limits, &scanned)
    cdef Request request
    if end <= 0:
        return request_refused(<int>-end)
    request = Request.__new__(Request)
    request.path = request.query = b""
    request.head = PyBytes_FromStringAndSize(<const char *>data, end)  # from here on all pointers are into this copy
    return judge(request, limits.max_headers)


cdef Request judge(Request request, uint32_t max_headers):
    cdef const uint8_t *head = <const uint8_t *>PyBytes_AS_STRING(request.head)
    cdef size_t line = <const uint8_t *>memchr(head, c"\r", PyBytes_GET_SIZE(request.head)) - head
    cdef size_t method = run(head, line, 0, TOKEN)
    cdef size_t target = method + 1
    cdef size_t target_end, query
    cdef const uint8_t *version
    cdef Fields fields
    cdef int status
    # method SP target SP "HTTP/" DIGIT "." DIGIT, each space exactly one.
    if method == line or head[method] != c" ":
        return refuse(request, 400, "malformed request line")
    target_end = run(head, line, target, VISIBLE)
    version = head + target_end
    if (
        target_end == target or line - target_end != 9 or memcmp(version, b" HTTP/", 6) != 0
        or not CLASS[version[6]] & DIGIT or version[7] != c"." or not CLASS[version[8]] & DIGIT
    ):
        return refuse(request, 400, "malformed request line")
    if version[6] != c"1" or version[8] == c"0":  # among them the HTTP/2 preface, "PRI * HTTP/2.0"
        return refuse(request, 505, "only HTTP/1.1 is spoken here")

    memset(&fields, 0, sizeof(Fields))
    status = read_headers(head + line + 2, PyBytes_GET_SIZE(request.head) - line - 4, max_headers, &fields)
    if status == 431:
        return refuse(request, 431, "too many headers")
    if status:
        return refuse(request, 400, "malformed header line")
    request.well_formed = True
    # Framing first: a request two servers could cut at different bytes is refused whatever it asks for (RFC 9112 section 6.3).
    if fields.length.lines and (
        fields.length.lines > 1 or fields.encoding.lines or fields.length.size == 0
        or run(fields.length.text, fields.length.size, 0, DIGIT) != fields.length.size
    ):
        return refuse(request, 400, "ambiguous message length")
    if method != 3 or memcmp(head, b"GET", 3) != 0:
        return refuse(request, 405, "only GET is served here")
    if fields.encoding.lines or has_content(&fields.length):
        return refuse(request, 400, "a GET with content is not served here")
    if head[target] != c"/" or memchr(head + target, c"#", target_end - target) != NULL:
        return refuse(request, 400, "the request target must begin with / and have no fragment")
    if fields.host.lines != 1 or not host_ok(&fields.host):
        return refuse(request, 400, "exactly one valid Host header is needed")
    if fields.origin.lines and (
        fields.origin.lines > 1 or fields.origin.size == 0
        or run(fields.origin.text, fields.origin.size, 0, VISIBLE) != fields.origin.size
    ):
        return refuse(request, 400, "malformed Origin header")

    query = target
    while query < target_end and head[query] != c"?":
        query += 1
    request.path = PyBytes_FromStringAndSize(<const char *>head + target, query - target)
    if query < target_end:
        request.query = PyBytes_FromStringAndSize(<const char *>head + query + 1, target_end - query - 1)
    request.host = PyBytes_FromStringAndSize(<const char *>fields.host.text, fields.host.size)
    if fields.origin.lines:
        request.origin = PyBytes_FromStringAndSize(<const char *>fields.origin.text, fields.origin.size)
    return judge_upgrade(request, &fields)


cdef Request judge_upgrade(Request request, const Fields *fields):
    cdef int version
    if fields.hop_broken:
        return refuse(request, 400, "malformed Connection or Upgrade header")
    if not fields.upgrade or not fields.websocket:
        # RFC 9110 section 7.8: an Upgrade to something else (h2c) or without the Connection option is ignored. But this one
        # came from a WebSocket client, and what it lacks was dropped on the way, by a proxy as a rule.
        if fields.websocket or fields.key.lines or fields.version.lines:
            return refuse(request, 426, "Upgrade: websocket and Connection: Upgrade are both needed; does a proxy drop them?")
        request.status = 200
        return request
    if fields.version.lines != 1:
        return refuse(request, 400, "exactly one Sec-WebSocket-Version header is needed")
    version = version_of(&fields.version)
    if version == 0:
        return refuse(request, 400, "malformed Sec-WebSocket-Version header")
    if version != 13:
        return refuse(request, 426, "only WebSocket version 13 is spoken here")
    if fields.key.lines != 1 or not key_ok(&fields.key):
        return refuse(request, 400, "exactly one Sec-WebSocket-Key header with base64 of 16 bytes is needed")
    if fields.extensions_broken or (fields.extension_lines and fields.extensions == 0):
        return refuse(request, 400, "malformed Sec-WebSocket-Extensions header")
    if fields.offer_broken or (fields.offer.lines and fields.offered == 0):
        return refuse(request, 400, "malformed Sec-WebSocket-Protocol header")
    if not take_offer(request, fields):
        return refuse(request, 400, "a subprotocol is offered twice")
    key = PyBytes_FromStringAndSize(<const char *>fields.key.text, 24)
    # usedforsecurity: it proves nothing about anyone, and a FIPS build of OpenSSL shall not refuse it.
    request.accept = b2a_base64(sha1(key + GUID, usedforsecurity=False).digest(), newline=False)
    request.status = 101
    return request


# Sets the offer: its tokens with exactly ", " between them, however they were spread over lines. False = a token comes twice.
# The set keeps this linear: bytes are hashed with a random key.
cdef bint take_offer(Request request, const Fields *fields) except -1:
    cdef bytes offer
    cdef list tokens
    if fields.offer.lines == 0:
        return True
    if fields.offer.lines == 1:
        offer = PyBytes_FromStringAndSize(<const char *>fields.offer.text, fields.offer.size)
    else:
        offer = request.header(b"sec-websocket-protocol")
    tokens = [token for token in [part.strip(b" \t") for part in offer.split(b",")] if token]
    if len(set(tokens)) != len(tokens):
        return False
    request.offer = b", ".join(tokens)
    return True


cdef class Request:
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """All header lines in order, as (name in lower case, value without the white space around it); () when they were malformed."""
        if not self.well_formed:
            return ()
        fields = [line.partition(b":") for line in self.head[:len(self.head) - 4].split(b"\r\n")[1:]]
        return tuple([(name.lower(), value.strip(b" \t")) for name, _, value in fields])

    def header(self, name: bytes) -> bytes | None:
        """The value of one header, several lines joined with ", " (RFC 9110 section 5.3); None when there is none."""
        name = name.lower()
        values = [value for other, value in self.headers() if other == name]
        return b", ".join(values) if values else None


# ---- for Python ---------------------------------------------------------------------------------------------------------------

def parse(data: bytes, max_head_bytes: int = 16384, max_headers: int = 100) -> Request:
    """Finds the end of the head in `data` and judges it; bytes after it are not looked at. An incomplete head is a 400."""
    cdef RequestLimits limits = RequestLimits(max_head_bytes, max_headers)
    cdef bytes owned = data
    return request_parse(<const uint8_t *>PyBytes_AS_STRING(owned), PyBytes_GET_SIZE(owned), &limits)


def scan_end(data: bytes, scanned: int, max_head_bytes: int = 16384, max_headers: int = 100) -> tuple[int, int]:
    """`request_end`: (length of the head, 0 or -status; the new cursor)."""
    cdef RequestLimits limits = RequestLimits(max_head_bytes, max_headers)
    cdef bytes owned = data
    cdef uint32_t cursor = scanned
    cdef long result = request_end(<const uint8_t *>PyBytes_AS_STRING(owned), PyBytes_GET_SIZE(owned), &limits, &cursor)
    return result, cursor
