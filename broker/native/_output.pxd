# Everything that is written to connections: lanes, flush slices, replies, and the bound of the worker's memory.
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from broker.native._connection cimport Connection, Table
from broker.native._hub cimport Hub
from broker.native._queue cimport Frame, Lane, Outbox, Outboxes
from broker.native._wheel cimport Wheel
from broker.native._writer cimport Writer

# Deadlines in ticks.
cdef struct Timing:
    uint32_t handshake
    uint32_t message
    uint32_t ping
    uint32_t ping_jitter
    uint32_t pong
    uint32_t write
    uint32_t close
    uint32_t linger

cdef class Output:
    cdef Hub hub
    cdef PyObject *hub_held         # OWNED, released by __dealloc__
    cdef Outboxes *all              # BORROWED from hub
    cdef Table table
    cdef Writer writer
    cdef Wheel *wheel               # OWNED
    cdef Timing timing
    cdef int poller
    cdef uint32_t tick
    cdef uint64_t started_ns
    cdef uint64_t random
    cdef uint32_t aged_to           # places of the table that were looked at for the oldest frame
    cdef uint64_t oldest_ns         # among them
    cdef Connection *doomed
    cdef Connection *graves
    cdef Connection *hungry         # those that wanted room and have it; fed at the end of the turn
    cdef uint64_t low_water         # bytes below which an outbox has room for a replay
    cdef Frame *ping_frames[2]      # OWNED, shared by all connections, by format
    cdef Frame *pong_text           # OWNED
    cdef object handler             # what calls Python; see Handler in _reactor.pyi
    cdef list closes                # cause -> close payload (code and reason)
    cdef bint small_next
    cdef bint input_evicted
    cdef bint relieved_in_vain
    cdef bint in_turn
    cdef void _release(self)
    cdef uint64_t now_ns(self) noexcept nogil
    cdef uint32_t jittered(self, uint32_t ticks, uint32_t jitter) noexcept nogil
    cdef void look_at_ages(self) noexcept nogil
    cdef void _evict(self, Connection *connection) noexcept nogil
    cdef void tell_time(self) noexcept nogil
    cdef void arm(self, Connection *connection) noexcept nogil
    cdef void watch(self, Connection *connection, int interest) noexcept nogil
    cdef void mark(self, Connection *connection, Lane lane) noexcept nogil
    cdef bint reply(self, Connection *connection, uint8_t opcode, const uint8_t *payload, size_t size) noexcept nogil
    cdef void doom(self, Connection *connection, uint8_t cause) noexcept nogil
    cdef void relieve(self) noexcept nogil
    cdef void flush_connection(self, Connection *connection) noexcept nogil
    cdef void check_room(self, Connection *connection) noexcept nogil
    cdef void flush_slice(self)
    cdef bint lanes_empty(self) noexcept nogil

# The first frame that waits in an outbox; NULL = none. BORROWED until something is written.
cdef Frame *oldest_frame(const Outbox *box) noexcept nogil
