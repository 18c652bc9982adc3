# The PROXY protocol, version 2, binary: the header that a proxy puts before a client's bytes. Sans-IO.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef enum:
    MOST_PROXY_BYTES = 4096         # header, addresses and TLVs, as nginx takes; a client's TLS certificate does not fit, and is not wanted

cdef enum:
    SOURCE_NONE = 0                 # the proxy speaks for itself (LOCAL), or says nothing about its client (UNSPEC, a Unix socket)
    SOURCE_IPV4 = 4
    SOURCE_IPV6 = 6

cdef struct ProxySource:
    uint8_t family                  # SOURCE_
    uint8_t address[16]             # of the client; the first 4 bytes for IPv4

# Reads the header at the start of data[:size]. Returns its length; 0 = more is needed; -1 = this is none, or not one that is taken,
# said at the first byte that shows it. Looks at no byte twice but the 16 of the fixed part.
cdef long proxy_parse(const uint8_t *data, size_t size, ProxySource *source) noexcept nogil
# The client's address, numeric; None for SOURCE_NONE.
cdef object proxy_address(const ProxySource *source)
