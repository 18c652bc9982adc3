# Subscriptions that read from the history instead of standing in the fan-out.
from libc.stdint cimport uint64_t

from broker.native._connection cimport Connection
from broker.native._queue cimport Subscription
from broker.native._verbs cimport Verbs

cdef enum Fed:
    FED_GONE = 0        # no such connection, or its subscription is not behind
    FED_QUEUED = 1
    FED_FULL = 2        # not queued: enough waits already; on_room is called when there is room again

cdef class Replaying(Verbs):
    cdef object on_room_callback
    cdef Subscription *behind(self, uint64_t conn, bytes name)      # NULL = gone, or not behind
    cdef void feed(self)
    cdef void forget_hungry(self) noexcept nogil
