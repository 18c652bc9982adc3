# The engine's end of all links: sequences live messages and hands each to the workers that want its channel.
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from broker.native._pipe cimport Pipe, Record, RecordType

cdef enum:
    MOST_PORTS = 256            # links at once: workers of two generations during a reload
    PORT_WORDS = 4              # MOST_PORTS bits
    PORT_EVENTS = 256

# One link.
cdef struct Port:
    Pipe pipe
    uint64_t taken              # PUBLISH records taken from it,
    uint64_t taken_bytes        # and their bytes
    uint64_t acked              # of which it was told
    uint32_t index
    bint watched_out
    bint dirty                  # in the list of ports to flush at the end of the turn
    bint losing                 # its output is full: what comes is counted in `lost` until it has drained
    bint dead
    PyObject *lost              # OWNED dict: channel -> (number, with_offset), told when it can take again; NULL = nothing

# A channel that at least one worker wants.
cdef struct Topic:
    PyObject *name              # OWNED bytes
    uint64_t wanted[PORT_WORDS]
    uint32_t count

cdef class Exchange:
    cdef Port *ports[MOST_PORTS]
    cdef dict topics            # bytes -> int (address of the Topic)
    cdef int poller
    cdef size_t most_output     # bytes that may wait for one link
    cdef uint64_t now_ms
    cdef object handler         # see ExchangeHandler in the .pyi
    cdef object call_soon
    cdef object turn_method
    cdef bint scheduled
    cdef bint in_turn
    cdef bint left              # something came up after this turn had written: there has to be another
    cdef readonly uint64_t sequenced
    cdef readonly uint64_t lost_count
    cdef uint32_t next_port

    cdef void _schedule(self)
    cdef void _turn(self)
    cdef void _read(self, Port *port)
    cdef bint _take_record(self, Port *port, const Record *record) except -1
    cdef void _flush(self)
    cdef void _flush_port(self, Port *port)
    cdef void _watch(self, Port *port)
    cdef void _tell_lost(self, Port *port)
    cdef void _drop(self, Port *port)
    cdef void _free(self, Port *port)
    cdef void _bury(self)
    cdef Topic *_find(self, bytes name)
    cdef void _unwant(self, Topic *topic, uint32_t index)
    cdef uint32_t _route(self, Topic *topic, uint8_t kind, uint8_t flags, uint32_t origin, uint64_t conn, uint64_t offset, uint64_t time_ms,
                         const uint8_t *extra, size_t extra_size, const uint8_t *payload, size_t payload_size) except? 0xFFFFFFFF
    cdef void _lose(self, Port *port, Topic *topic, uint64_t offset)
    cdef Port *_port(self, uint32_t index) except NULL
    cdef bint _put(self, uint32_t index, RecordType type, uint8_t kind, uint8_t flags, uint64_t number, bytes name, bytes payload) except -1
