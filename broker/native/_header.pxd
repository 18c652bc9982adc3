# Header lines of an HTTP/1.1 request and the grammar of those values the WebSocket handshake rests on. Sans-IO: no Python object.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef enum CharClass:
    TOKEN = 1       # tchar, RFC 9110 section 5.6.2
    VALUE = 2       # field-content with its inner white space: HTAB, SP, VCHAR, obs-text
    VISIBLE = 4     # VCHAR; browsers leave "|", "^" and braces in a query, so the URI grammar proper would refuse pages
    REG_NAME = 8    # unreserved and sub-delims, RFC 3986 section 3.2.2 ("%" has its own check)
    HEX = 16
    DIGIT = 32
    BASE64 = 64

cdef uint8_t CLASS[256]     # filled once at import, read-only from then on

# One header field that may come once: the last line's value, and how many lines there were.
cdef struct Field:
    const uint8_t *text     # BORROWED from the bytes given to read_headers
    size_t size
    uint32_t lines

cdef struct Fields:
    Field host
    Field origin
    Field key
    Field version
    Field length            # Content-Length
    Field encoding          # Transfer-Encoding
    Field offer             # Sec-WebSocket-Protocol, lines that are not empty
    uint32_t offered        # tokens in all of its lines
    uint32_t extensions     # elements in all lines of Sec-WebSocket-Extensions
    uint32_t extension_lines
    bint offer_broken
    bint extensions_broken
    bint hop_broken         # Connection or Upgrade
    bint upgrade            # Connection has the token "upgrade"
    bint websocket          # Upgrade has the token "websocket"


cdef inline size_t run(const uint8_t *text, size_t size, size_t at, int bits) noexcept nogil:
    while at < size and CLASS[text[at]] & bits:
        at += 1
    return at


# Reads the lines of text[:size], each ended by CRLF, the empty line not among them, into `fields` (all zero before). Returns 0, 400 or 431.
cdef int read_headers(const uint8_t *text, size_t size, uint32_t max_headers, Fields *fields) noexcept nogil

# Whether the value keeps its grammar. `version_of`: 13, another version (426), or 0 = malformed. `has_content`: a Content-Length above zero.
cdef bint host_ok(const Field *host) noexcept nogil
cdef bint key_ok(const Field *key) noexcept nogil
cdef int version_of(const Field *version) noexcept nogil
cdef bint has_content(const Field *length) noexcept nogil
