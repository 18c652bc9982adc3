"""Socket calls of the reactor, with their errors folded into the few cases that it acts on.

Options are set on the listener and inherited by what it accepts (tcp(7); a test reads them back), which saves two system calls a
connection. TCP_NOTSENT_LOWAT is what makes a send queue bounded: without it a stalled reader held 4.2 MB in the kernel, with
64 KiB it holds 66 KB (measured, Linux 6.18).
"""

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTO, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memset
from posix.unistd cimport close


cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct linger:
        int l_onoff
        int l_linger
    int accept4(int fd, void *address, void *length, int flags)
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t send(int fd, const void *buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)
    int shutdown(int fd, int how)
    enum:
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        MSG_NOSIGNAL
        SOL_SOCKET
        SO_LINGER
        SHUT_WR
        MSG_PEEK

cdef extern from "<netinet/in.h>" nogil:
    cdef struct sockaddr:
        int sa_family
    cdef struct sockaddr_storage:
        int ss_family
    enum:
        IPPROTO_TCP

cdef extern from "<netdb.h>" nogil:
    int getpeername(int fd, sockaddr *address, unsigned int *length)
    int getnameinfo(const sockaddr *address, unsigned int length, char *host, unsigned int host_size, char *service, unsigned int service_size, int flags)
    enum:
        NI_NUMERICHOST

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY
        TCP_NOTSENT_LOWAT


cdef ssize_t read_some(int fd, uint8_t *buffer, size_t size) noexcept nogil:
    cdef ssize_t got
    while True:
        got = recv(fd, buffer, size, 0)
        if got >= 0:
            return got
        if errno == EAGAIN:
            return SOCKET_AGAIN
        if errno != EINTR:
            return SOCKET_GONE


cdef ssize_t peek(int fd) noexcept nogil:
    cdef uint8_t byte
    cdef ssize_t got
    while True:
        got = recv(fd, &byte, 1, MSG_PEEK)
        if got >= 0:
            return got
        if errno == EAGAIN:
            return SOCKET_AGAIN
        if errno != EINTR:
            return SOCKET_GONE


cdef ssize_t write_some(int fd, iovec *pieces, int count) noexcept nogil:
    cdef msghdr message
    cdef ssize_t took
    while True:
        if count == 1:
            took = send(fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = pieces
            message.msg_iovlen = count
            took = sendmsg(fd, &message, MSG_NOSIGNAL)
        if took >= 0:
            return took
        if errno == EAGAIN or errno == ENOBUFS:
            return SOCKET_AGAIN
        if errno != EINTR:
            return SOCKET_GONE


cdef int accept_one(int listener) noexcept nogil:
    cdef int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd >= 0:
        return fd
    if errno == EAGAIN:
        return SOCKET_AGAIN
    if errno == EINTR or errno == ECONNABORTED or errno == EPROTO or errno == EPERM:
        return SOCKET_GONE
    return ACCEPT_LATER     # EMFILE, ENFILE, ENOBUFS, ENOMEM; any other error of a listener does not pass by asking again at once


cdef int prepare_listener(int fd, int notsent_lowat_bytes) noexcept nogil:
    cdef int one = 1
    if setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)):
        return -errno
    if setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &notsent_lowat_bytes, sizeof(notsent_lowat_bytes)):
        return -errno
    return 0


cdef void end_writing(int fd) noexcept nogil:
    shutdown(fd, SHUT_WR)


cdef void close_socket(int fd, bint reset) noexcept nogil:
    cdef linger at_once
    if reset:
        at_once.l_onoff = 1
        at_once.l_linger = 0
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
    close(fd)


cdef object peer_address(int fd):
    cdef sockaddr_storage address
    cdef unsigned int length = sizeof(address)
    cdef char host[64]
    if getpeername(fd, <sockaddr *>&address, &length) or getnameinfo(<sockaddr *>&address, length, host, sizeof(host), NULL, 0, NI_NUMERICHOST):
        return None
    return (<bytes>host).decode("ascii")
