"""Accepting: who comes in, as far as that is known before the request.

Third layer of the reactor. Takes connections in batches, gives each its place or a 503, pauses while file descriptors are short,
and reads the PROXY header where a proxy says whose connection it is (`_proxy`; whom to believe is the handler's to say).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from broker.native._connection cimport (
    CAUSE_ANSWERED, CAUSE_FULL, CAUSE_MEMORY, CAUSE_PROXY, Connection, MARK_PROXY, MARK_REFUSED, connection_id, stash_append,
    stash_free, table_add, table_remove,
)
from broker.native._counters cimport (
    G_CONNECTIONS, G_REFUSED, N_ACCEPTED, N_ACCEPT_PAUSES, N_CLOSED, N_REFUSED_FULL, N_REFUSED_PROXY,
)
from broker.native._lifecycle cimport Lifecycle
from broker.native._poller cimport POLL_IN, POLL_NOTHING, WATCH_ADD, WATCH_CHANGE, poller_watch
from broker.native._proxy cimport MOST_PROXY_BYTES, proxy_address, proxy_parse
from broker.native._queue cimport Frame, frame_new
from broker.native._socket cimport ACCEPT_LATER, SOCKET_AGAIN, SOCKET_GONE, accept_one, close_socket, peer_address

cdef uint32_t REFUSING = 32             # connections above max_connections that are answered 503; the others are reset
cdef int ACCEPT_BATCH = 64              # connections taken of one listener before others have their turn
cdef uint32_t ACCEPT_PAUSE_TICKS = 4    # 200 ms until accept is tried again after EMFILE


cdef class Acceptor(Lifecycle):
    def __cinit__(self, *_, uint32_t max_connections, bint proxy_protocol=False, **__):
        self.max_connections = max_connections
        self.proxy_protocol = proxy_protocol

    cdef void readable(self, Connection *connection):
        """Reads what has come: the intake's."""

    cdef void pause_accept(self):
        self.accept_paused = True
        self.accept_again_tick = self.tick + ACCEPT_PAUSE_TICKS
        self.all.counters[N_ACCEPT_PAUSES] += 1
        self.watch_listeners()

    cdef void resume_accept(self):
        self.accept_paused = False
        self.watch_listeners()

    cdef void watch_listeners(self):
        cdef int i
        for i in range(self.listener_count):
            poller_watch(self.poller, WATCH_CHANGE, self.listeners[i], POLL_NOTHING if self.accept_paused or self.accept_left else POLL_IN, TAG_LISTENER + i)

    cdef bint accept_some(self, int listener):
        """Takes one batch; True = there may be more."""
        cdef Connection *connection
        cdef int i, fd
        if self.accept_paused:
            return False
        for i in range(ACCEPT_BATCH):
            if self.left_when_full and self.table.used - self.refusing >= self.max_connections:
                self.accept_left = True
                self.watch_listeners()
                return False
            fd = accept_one(listener)
            if fd == SOCKET_AGAIN:
                return False
            if fd == SOCKET_GONE:
                continue
            if fd == ACCEPT_LATER:
                self.pause_accept()
                return False
            if self.table.used >= self.max_connections + REFUSING:      # those being told 503 are bounded too
                close_socket(fd, True)
                self.all.counters[N_ACCEPTED] += 1
                self.all.counters[N_REFUSED_FULL] += 1
                self.all.counters[N_CLOSED + CAUSE_FULL] += 1
                continue
            connection = table_add(&self.table, fd)
            if connection == NULL or poller_watch(self.poller, WATCH_ADD, fd, POLL_IN, connection_id(connection)):
                close_socket(fd, True)
                if connection != NULL:
                    table_remove(&self.table, connection)
                self.pause_accept()
                return False
            connection.watched = POLL_IN
            connection.state_tick = self.tick + self.timing.handshake
            connection.messages_full_at_ns = self.now_ns()      # when it was accepted, until it is open
            self.arm(connection)
            self.all.counters[N_ACCEPTED] += 1
            self.all.counters[G_CONNECTIONS] += 1
            if self.proxy_protocol:
                connection.marks |= MARK_PROXY
            if self.table.used - self.refusing > self.max_connections:
                self.refusing += 1
                self.all.counters[N_REFUSED_FULL] += 1
                self._respond(connection, self.closes[CAUSE_FULL], CAUSE_FULL)      # before any work for it
            else:
                self.readable(connection)   # the request is often there already
        return True

    cdef void _respond(self, Connection *connection, bytes response, uint8_t cause):
        cdef Frame *frame = frame_new(self.all, <size_t>PyBytes_GET_SIZE(response))
        if frame != NULL:
            memcpy(frame.data, PyBytes_AS_STRING(response), <size_t>PyBytes_GET_SIZE(response))
        if cause != CAUSE_ANSWERED:
            connection.marks |= MARK_REFUSED
            self.all.counters[G_REFUSED] += 1
        self.end_with(connection, frame, cause, False)      # without memory for the answer it just ends

    # Whose connection it is.

    cdef bint take_proxy(self, Connection *connection, uint8_t **data, size_t *size):
        cdef uint32_t before = connection.stash_size, capacity = connection.stash_capacity
        cdef ProxySource source
        cdef long end
        if connection.stash == NULL:
            end = proxy_parse(data[0], size[0], &source)
        if connection.stash != NULL or end == 0:
            # What is read at once is bounded by the read buffer, and an unfinished header by what proxy_parse takes.
            if not stash_append(connection, data[0], size[0], <size_t>-1):
                self.kill(connection, CAUSE_MEMORY)
                return False
            self.all.physical += connection.stash_capacity - capacity
            end = proxy_parse(connection.stash, connection.stash_size, &source)
            if end == 0:
                return False
            self.all.physical -= connection.stash_capacity
            stash_free(connection)
        if end < 0 or not self._believe(connection, &source):
            self.all.counters[N_REFUSED_PROXY] += 1
            self.kill(connection, CAUSE_PROXY)      # no answer: who is no proxy is not meant to come here
            return False
        connection.marks &= ~MARK_PROXY
        data[0] += <size_t>end - before         # the header was unfinished before: whatever follows it is of these bytes
        size[0] -= <size_t>end - before
        return size[0] > 0

    cdef bint _believe(self, Connection *connection, const ProxySource *source):
        try:
            return self.handler.on_proxied(connection_id(connection), peer_address(connection.fd), proxy_address(source))
        except BaseException as error:
            self.failed_callback(connection, error)
            return False
