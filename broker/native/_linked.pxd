# The worker's end of the link to an engine in another process.
from libc.stdint cimport uint8_t, uint64_t

from broker.native._connection cimport Connection
from broker.native._hub cimport Message
from broker.native._intake cimport Intake
from broker.native._pipe cimport Pipe, Record, RecordType

cdef enum:
    TAG_LINK = 1001         # beside TAG_LISTENER + index and TAG_TICK

cdef class Linked(Intake):
    cdef bint remote                # the engine is in another process: nothing is delivered before it has come back
    cdef bint attached
    cdef bint link_left             # records of the last read wait for the next turn
    cdef bint link_watched_out
    cdef bint someone_waits         # the Python side wants to hear of acks
    cdef Pipe pipe
    cdef uint64_t link_window       # bytes of publishes that may be under way
    cdef uint64_t link_sent         # publishes put on this link
    cdef uint64_t link_sent_bytes
    cdef uint64_t link_acked
    cdef uint64_t link_acked_bytes
    cdef uint64_t heard             # reads that brought something, and records taken: whether the engine lives
    cdef object link_handler        # see LinkHandler in the .pyi

    cdef uint64_t put_publish(self, const Message *message, uint64_t conn, bint echo) noexcept nogil
    cdef void link_ready(self, bint readable)
    cdef void read_link(self)
    cdef void take_link(self)
    cdef void flush_link(self)
    cdef bint link_waits(self) noexcept nogil       # something was put on it after it was flushed
    cdef void lose_link(self)
    cdef void _observe_lag(self, uint64_t sequenced_ms) noexcept nogil
    cdef bint _take_record(self, const Record *record) except -1
    cdef void _deliver(self, const Record *record)
    cdef void _acked(self, const Record *record)
    cdef void _release_link(self)
    cdef bint _put(self, RecordType type, uint8_t kind, uint8_t flags, uint64_t number, bytes name, bytes payload) except -1
