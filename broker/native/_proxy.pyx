"""The PROXY protocol, version 2: 16 bytes, addresses, and type-length-values that are skipped.

Owns the strict reading of that header (haproxy.org, doc/proxy-protocol.txt, section 2.2). The reactor calls it before the request
head where the operator switched it on; whether the peer may say whose connection it is, is not decided here. The text form
of version 1 is refused: it has no length, and its first bytes could be another protocol's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy


cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *source, char *text, unsigned int size)
    enum:
        AF_INET
        AF_INET6

cdef enum:
    FIXED_SIZE = 16
    SIGNATURE_SIZE = 12
    VERSION_2 = 0x20
    LOCAL = 0x20
    PROXIED = 0x21
    UNSPECIFIED = 0x00
    TCP4 = 0x11
    TCP6 = 0x21
    UNIX_STREAM = 0x31

cdef const uint8_t *SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


cdef long proxy_parse(const uint8_t *data, size_t size, ProxySource *source) noexcept nogil:
    cdef size_t length, least = 0
    source.family = SOURCE_NONE
    if memcmp(data, SIGNATURE, size if size < <size_t>SIGNATURE_SIZE else <size_t>SIGNATURE_SIZE) != 0:
        return -1
    if size > 12 and data[12] != LOCAL and data[12] != PROXIED:     # another version or command must be refused
        return -1
    if size > 13:
        if data[13] == TCP4:
            least = 12
        elif data[13] == TCP6:
            least = 36
        elif data[13] == UNIX_STREAM:
            least = 216
        elif data[13] != UNSPECIFIED and data[12] == PROXIED:
            return -1       # datagrams, and what is not assigned: no such connection comes to this listener
        if data[12] == LOCAL:
            least = 0       # the family of LOCAL is to be ignored, and what follows it skipped
    if size < <size_t>FIXED_SIZE:
        return 0
    length = <size_t>data[14] << 8 | data[15]
    if length < least or length > <size_t>(MOST_PROXY_BYTES - FIXED_SIZE):
        return -1
    if size < FIXED_SIZE + length:
        return 0
    if data[12] == PROXIED and data[13] == TCP4:
        source.family = SOURCE_IPV4
        memcpy(source.address, data + FIXED_SIZE, 4)
    elif data[12] == PROXIED and data[13] == TCP6:
        source.family = SOURCE_IPV6
        memcpy(source.address, data + FIXED_SIZE, 16)
    return <long>(FIXED_SIZE + length)


cdef object proxy_address(const ProxySource *source):
    cdef char text[64]
    if source.family == SOURCE_NONE:
        return None
    if inet_ntop(AF_INET if source.family == SOURCE_IPV4 else AF_INET6, source.address, text, sizeof(text)) == NULL:
        return None     # only for want of room, of which there is enough
    return (<bytes>text).decode("ascii")


def parse(data: bytes) -> tuple[int, str | None]:
    """`proxy_parse`: (its result, the client's address or None)."""
    cdef bytes owned = data
    cdef ProxySource source
    cdef long end = proxy_parse(<const uint8_t *>PyBytes_AS_STRING(owned), <size_t>PyBytes_GET_SIZE(owned), &source)
    return end, proxy_address(&source)
