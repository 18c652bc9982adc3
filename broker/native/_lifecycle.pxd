# Ends of connections: closing, deadlines, graveyard.
from libc.stdint cimport uint8_t, uint32_t

from broker.native._connection cimport Connection
from broker.native._output cimport Output
from broker.native._queue cimport Frame

cdef class Lifecycle(Output):
    cdef uint32_t refusing          # connections that are being told 503: they take no place from those that may come in
    cdef dict names                 # id -> address of the client, where it is not the socket's

    cdef bint _passed(self, uint32_t tick) noexcept nogil
    cdef void queue_input(self, Connection *connection)
    cdef void forget_input(self, Connection *connection)
    cdef void _close_slow(self, Connection *connection)
    cdef void _report(self, error)
    cdef void _expire_state(self, Connection *connection)
    cdef void _ping(self, Connection *connection)
    cdef object session_of(self, Connection *connection)
    cdef void leave_channels(self, Connection *connection)
    cdef void end_with(self, Connection *connection, Frame *last, uint8_t cause, bint wait_for_peer)
    cdef void close_with(self, Connection *connection, bytes payload, uint8_t cause, bint wait_for_peer)
    cdef void fail(self, Connection *connection, uint8_t cause)
    cdef void failed_callback(self, Connection *connection, object error)
    cdef void last_byte_written(self, Connection *connection)
    cdef void kill(self, Connection *connection, uint8_t cause)
    cdef void run_deadlines(self)
    cdef void expire(self, Connection *connection)
    cdef void settle(self)
    cdef void bury(self)
    cdef void _forget_name(self, Connection *connection)
