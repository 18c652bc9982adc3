# The turn of the reactor and the verbs that the rest of the broker calls. Its poller is one file descriptor of the event loop.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from broker.native._connection cimport Connection
from broker.native._intake cimport Intake

cdef enum:
    EVENTS = 512
    TAG_TICK = 1000         # beside TAG_LISTENER + index

cdef class Reactor(Intake):
    cdef int tick_fd
    cdef bint ticked                # the tick came; deadlines are due to be looked at
    cdef uint32_t ticked_turns
    cdef uint32_t first_event       # where the next turn begins among the events found: behind the one this turn had no time for
    cdef Connection *find(self, uint64_t id)
    cdef void _turn(self)
    cdef void _end_turn(self)
    cdef bint answer(self, Connection *connection, bytes accept, bytes protocol) except -1
