# What the rest of the broker asks of one connection, by its id.
from libc.stdint cimport uint64_t

from broker.native._connection cimport Connection
from broker.native._linked cimport Linked

cdef class Verbs(Linked):
    cdef Connection *find(self, uint64_t id)        # NULL = gone
    cdef bint answer(self, Connection *connection, bytes accept, bytes protocol) except -1
