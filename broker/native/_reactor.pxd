# The turn of the reactor. Its poller is one file descriptor of the event loop.
from libc.stdint cimport uint32_t

from broker.native._replay cimport Replaying

cdef enum:
    EVENTS = 512
    TAG_TICK = 1000         # beside TAG_LISTENER + index

cdef class Reactor(Replaying):
    cdef int tick_fd
    cdef bint ticked                # the tick came; deadlines are due to be looked at
    cdef uint32_t ticked_turns
    cdef uint32_t first_event       # where the next turn begins among the events found: behind the one this turn had no time for
    cdef void _turn(self)
    cdef void _end_turn(self)
