# The opening handshake's request head (RFC 9112, RFC 6455 section 4.2): strict, linear, sans-IO.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef struct RequestLimits:
    uint32_t max_head_bytes         # request line and headers with the empty line; over it 431 (414 while still in the request line)
    uint32_t max_headers            # 431

# Looks for the end of the head in data[:size]. `scanned` is the caller's cursor, 0 at first: bytes before it are not looked at again, so a head that drips in costs linear time.
# Returns the head's length, empty line included; 0 = incomplete; -status = refuse now (400 for a bare CR or LF or a NUL or a first byte no method begins with, 414, 431).
cdef long request_end(const uint8_t *data, size_t size, const RequestLimits *limits, uint32_t *scanned) noexcept nogil

cdef class Request:
    """A parsed request head. `status` says what it is: 101 = a valid WebSocket upgrade, 200 = a valid plain GET, otherwise the HTTP status to refuse with."""
    cdef readonly int status
    cdef readonly str problem       # fixed text when refused, never the client's bytes
    cdef readonly bytes head        # the whole head
    cdef readonly bytes path        # target up to "?", as sent
    cdef readonly bytes query       # after "?", as sent; b"" when there is none
    cdef readonly bytes host
    cdef readonly bytes origin      # None when absent
    cdef readonly bytes offer       # the tokens of all Sec-WebSocket-Protocol lines with exactly ", " between them, unique; None when absent or empty
    cdef readonly bytes accept      # the Sec-WebSocket-Accept answer; None unless status is 101
    cdef bint well_formed           # the header lines could be read; headers() has them

# Parses a whole head (as found by request_end). Never raises on any bytes.
cdef Request request_parse(const uint8_t *data, size_t size, const RequestLimits *limits)
# The refusal for a negative answer of request_end (give it the positive status).
cdef Request request_refused(int status)
