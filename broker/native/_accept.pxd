# Accepting: listeners, places, and whose connection it is where a proxy says so.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from broker.native._connection cimport Connection
from broker.native._lifecycle cimport Lifecycle
from broker.native._proxy cimport ProxySource

cdef enum:
    MOST_LISTENERS = 64
    TAG_LISTENER = 1        # epoll tags below 2**32 have generation 0, which no connection has: TAG_LISTENER + index

cdef class Acceptor(Lifecycle):
    cdef int listeners[64]
    cdef int listener_count
    cdef bint accept_paused
    cdef bint accept_left           # other workers take what comes to our listeners
    cdef bint left_when_full        # they will, once we hold max_connections
    cdef uint32_t accept_again_tick
    cdef uint32_t max_connections
    cdef bint proxy_protocol        # every connection begins with a PROXY header

    cdef bint accept_some(self, int listener)
    cdef void pause_accept(self)
    cdef void resume_accept(self)
    cdef void watch_listeners(self)
    cdef void readable(self, Connection *connection)
    cdef void _respond(self, Connection *connection, bytes response, uint8_t cause)
    # Takes a PROXY header, or as much of it as has come, off the input. False = nothing is left of it, or the connection has ended.
    cdef bint take_proxy(self, Connection *connection, uint8_t **data, size_t *size)
    cdef bint _believe(self, Connection *connection, const ProxySource *source)
