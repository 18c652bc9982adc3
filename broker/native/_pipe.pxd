# One end of a link between a worker and the engine: records over a Unix stream socket, buffers on both ways. No policy, no Python object.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

# What travels. Both ends run on one machine and from one build, so integers are in its order; the version is compared in HELLO.
cdef enum RecordType:
    RECORD_PUBLISH = 1      # worker -> engine: a live message to sequence
    RECORD_MESSAGE = 2      # engine -> worker: a sequenced message; number = offset (0: live), value = Unix time in ms
    RECORD_ACK = 3          # engine -> worker: number = PUBLISH records taken so far, value = their bytes: this much credit is back
    RECORD_MISSED = 4       # engine -> worker: number = messages of the channel that did not fit; with FLAG_OFFSET: the first lost offset
    RECORD_CALL = 5         # a question of the Python side, either way: kind = verb, number = token, 0 = no answer is wanted
    RECORD_REPLY = 6        # its answer: number = token; with FLAG_ERROR the payload is a word

cdef enum:
    FLAG_NO_ECHO = 1        # the publishing connection gets no copy
    FLAG_OFFSET = 2
    FLAG_ERROR = 4
    PIPE_BYTES = 262144     # what each buffer starts with and goes back to; also the most that one read takes

# The head of a record; name, extra and payload follow. `size` counts everything and the padding to 8 bytes.
cdef struct Record:
    uint32_t size
    uint32_t name_size
    uint32_t extra_size
    uint32_t payload_size
    uint8_t type
    uint8_t kind
    uint8_t flags
    uint8_t spare[5]
    uint64_t conn           # of the publishing worker; 0 for all others
    uint64_t number
    uint64_t value

cdef struct Pipe:
    int fd                  # BORROWED: whoever attached it closes it
    uint8_t *input          # OWNED
    uint8_t *output         # OWNED
    size_t in_at
    size_t in_end
    size_t in_capacity
    size_t out_at
    size_t out_end
    size_t out_capacity

cdef bint pipe_init(Pipe *pipe, int fd) noexcept nogil          # False = no memory
cdef void pipe_free(Pipe *pipe) noexcept nogil
# Reads once. Bytes, or SOCKET_AGAIN, or SOCKET_GONE (also at its end, or without memory for a record that is due).
cdef ssize_t pipe_read(Pipe *pipe) noexcept nogil
# The next whole record, BORROWED until the next pipe_read. NULL and broken[0] = not a record: the link has to end.
cdef Record *pipe_next(Pipe *pipe, size_t most, bint *broken) noexcept nogil
# Appends a record; NULL = no memory. The pointer is good until the next call.
cdef Record *pipe_put(Pipe *pipe, RecordType type, const uint8_t *name, size_t name_size, const uint8_t *extra, size_t extra_size, const uint8_t *payload, size_t payload_size) noexcept nogil
# Writes what waits. False = the other end is gone. What the kernel did not take stays.
cdef bint pipe_flush(Pipe *pipe) noexcept nogil

cdef inline size_t pipe_waiting(const Pipe *pipe) noexcept nogil:
    return pipe.out_end - pipe.out_at
cdef inline const uint8_t *record_name(const Record *record) noexcept nogil:
    return <const uint8_t *>record + sizeof(Record)
cdef inline const uint8_t *record_extra(const Record *record) noexcept nogil:
    return <const uint8_t *>record + sizeof(Record) + record.name_size
cdef inline const uint8_t *record_payload(const Record *record) noexcept nogil:
    return <const uint8_t *>record + sizeof(Record) + record.name_size + record.extra_size
