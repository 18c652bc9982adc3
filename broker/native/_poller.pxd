# Readiness of sockets: the four functions another operating system would have to provide. Level-triggered.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

cdef enum Interest:
    POLL_NOTHING = 0
    POLL_IN = 1             # EPOLLIN
    POLL_OUT = 4            # EPOLLOUT
    POLL_GONE = 24          # EPOLLERR | EPOLLHUP: always reported, never asked for

cdef enum Watch:
    WATCH_ADD = 1
    WATCH_REMOVE = 2
    WATCH_CHANGE = 3

ctypedef epoll_event Event      # .events = Interest bits, .data.u64 = the tag given to poller_watch

cdef int poller_open() noexcept nogil                                                       # a file descriptor, or -errno
cdef int poller_watch(int poller, Watch how, int fd, int interest, uint64_t tag) noexcept nogil     # 0 or -errno
cdef int poller_wait(int poller, Event *events, int most, int milliseconds) noexcept nogil  # events found, or -errno
cdef void poller_close(int poller) noexcept nogil
