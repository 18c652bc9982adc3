"""The poller: epoll behind four functions.

The reactor owns one and hands its file descriptor to the event loop, which sees readiness of the whole set as readiness of that
one fd (epoll(7): an epoll fd is itself pollable). Level-triggered, because a socket left half read by the input budget is kept
out of the set by the reactor and not by edge bookkeeping.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close


cdef extern from "<sys/epoll.h>" nogil:
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum:
        EPOLL_CLOEXEC
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD

assert (POLL_IN, POLL_OUT, POLL_GONE) == (EPOLLIN, EPOLLOUT, EPOLLERR | EPOLLHUP), "Interest is passed to the kernel as it is"
assert (WATCH_ADD, WATCH_REMOVE, WATCH_CHANGE) == (EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD)


cdef int poller_open() noexcept nogil:
    cdef int fd = epoll_create1(EPOLL_CLOEXEC)
    return fd if fd >= 0 else -errno


cdef int poller_watch(int poller, Watch how, int fd, int interest, uint64_t tag) noexcept nogil:
    cdef epoll_event event
    event.events = <uint32_t>interest
    event.data.u64 = tag
    return 0 if epoll_ctl(poller, <int>how, fd, &event) == 0 else -errno


cdef int poller_wait(int poller, Event *events, int most, int milliseconds) noexcept nogil:
    cdef int found = epoll_wait(poller, events, most, milliseconds)
    if found >= 0:
        return found
    return 0 if errno == EINTR else -errno


cdef void poller_close(int poller) noexcept nogil:
    close(poller)
