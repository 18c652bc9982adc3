# The only functions that touch a client's socket: every other module reads and writes through these, so that TLS can be put beneath them.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef enum:
    SOCKET_AGAIN = -1       # nothing to read, or no room to write: ask the poller
    SOCKET_GONE = -2        # reset, or an error after which nothing can follow
    ACCEPT_LATER = -3       # no file descriptor or memory for another connection (EMFILE, ENFILE, ENOBUFS, ENOMEM)

cdef ssize_t read_some(int fd, uint8_t *buffer, size_t size) noexcept nogil             # bytes, 0 = end of stream, SOCKET_AGAIN, SOCKET_GONE
cdef ssize_t peek(int fd) noexcept nogil       # what read_some would find, left where it is: 1 = something, 0, SOCKET_AGAIN, SOCKET_GONE
cdef ssize_t write_some(int fd, iovec *pieces, int count) noexcept nogil                # bytes, SOCKET_AGAIN, SOCKET_GONE
cdef int accept_one(int listener) noexcept nogil        # a non-blocking, close-on-exec fd, SOCKET_AGAIN, ACCEPT_LATER, SOCKET_GONE (this one vanished; try the next)
cdef int prepare_listener(int fd, int notsent_lowat_bytes) noexcept nogil               # 0 or -errno; accepted sockets inherit what is set here
cdef void end_writing(int fd) noexcept nogil            # FIN after what is queued (RFC 6455 7.1.1)
cdef void close_socket(int fd, bint reset) noexcept nogil       # reset: RST at once, whatever is unsent or unread
cdef object peer_address(int fd)                        # numeric host as str, None = not connected (any more)
