# The turn of the reactor and the verbs that the rest of the broker calls. Its poller is one file descriptor of the event loop.
from libc.stdint cimport uint8_t, uint64_t

from broker.native._connection cimport Connection
from broker.native._intake cimport Intake

cdef enum:
    EVENTS = 512
    TAG_TICK = 1000         # beside TAG_LISTENER + index

cdef class Reactor(Intake):
    cdef int tick_fd
    cdef Connection *find(self, uint64_t id)
    cdef void _turn(self)
    cdef void _end_turn(self)
    cdef bint answer(self, Connection *connection, bytes accept, bytes protocol) except -1
