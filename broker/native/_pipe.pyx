"""Records over a Unix stream socket, with a buffer for each direction.

The worker's end is _linked, the engine's _exchange; both read and write through here, one system call for all that is ready. The
buffers are contiguous and grow for a record that is larger; empty, they go back to what they began with. How much may wait
to be written is the owner's to decide (credit at the worker, loss at the engine): nothing here ever blocks or refuses but for want
of memory.

A record is checked before anything of it is used: sizes are unsigned and compared in 64 bits, so that no sum can wrap.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from broker.native._socket cimport SOCKET_AGAIN, SOCKET_GONE, iovec, read_some, write_some


cdef size_t MOST_BYTES = (<size_t>1 << 31) - 1     # of a record: its size has 32 bits


cdef bint pipe_init(Pipe *pipe, int fd) noexcept nogil:
    memset(pipe, 0, sizeof(Pipe))
    pipe.fd = fd
    pipe.input = <uint8_t *>malloc(PIPE_BYTES)          # freed by pipe_free
    pipe.output = <uint8_t *>malloc(PIPE_BYTES)         # freed by pipe_free
    pipe.in_capacity = pipe.out_capacity = PIPE_BYTES
    return pipe.input != NULL and pipe.output != NULL


cdef void pipe_free(Pipe *pipe) noexcept nogil:
    free(pipe.input)
    free(pipe.output)
    memset(pipe, 0, sizeof(Pipe))
    pipe.fd = -1


cdef bint _fit(uint8_t **buffer, size_t *at, size_t *end, size_t *capacity, size_t more) noexcept nogil:
    """Room for `more` bytes behind `end`: moves what there is to the front, grows if that is not enough."""
    cdef size_t used = end[0] - at[0], size = capacity[0]
    cdef uint8_t *larger
    if end[0] + more <= size:
        return True
    if at[0]:
        memmove(buffer[0], buffer[0] + at[0], used)
        at[0] = 0
        end[0] = used
    if used + more <= size:
        return True
    while size < used + more:
        size *= 2
    larger = <uint8_t *>realloc(buffer[0], size)        # freed by pipe_free
    if larger == NULL:
        return False
    buffer[0] = larger
    capacity[0] = size
    return True


cdef void _empty(uint8_t **buffer, size_t *at, size_t *end, size_t *capacity) noexcept nogil:
    cdef uint8_t *smaller
    at[0] = end[0] = 0
    if capacity[0] > 4 * PIPE_BYTES:
        smaller = <uint8_t *>realloc(buffer[0], PIPE_BYTES)
        if smaller != NULL:
            buffer[0] = smaller
            capacity[0] = PIPE_BYTES


cdef ssize_t pipe_read(Pipe *pipe) noexcept nogil:
    cdef ssize_t got
    if pipe.in_at == pipe.in_end:
        _empty(&pipe.input, &pipe.in_at, &pipe.in_end, &pipe.in_capacity)
    if not _fit(&pipe.input, &pipe.in_at, &pipe.in_end, &pipe.in_capacity, PIPE_BYTES // 4):
        return SOCKET_GONE
    got = read_some(pipe.fd, pipe.input + pipe.in_end, pipe.in_capacity - pipe.in_end)
    if got == 0:
        return SOCKET_GONE
    if got > 0:
        pipe.in_end += <size_t>got
    return got


cdef Record *pipe_next(Pipe *pipe, size_t most, bint *broken) noexcept nogil:
    cdef size_t left = pipe.in_end - pipe.in_at
    cdef Record *record = <Record *>(pipe.input + pipe.in_at)
    cdef uint64_t size
    if left < sizeof(Record):
        return NULL
    size = <uint64_t>sizeof(Record) + record.name_size + record.extra_size + record.payload_size
    if record.size != (size + 7) // 8 * 8 or record.size > most:
        broken[0] = True
        return NULL
    if left < record.size:
        return NULL
    pipe.in_at += record.size
    return record


cdef Record *pipe_put(Pipe *pipe, RecordType type, const uint8_t *name, size_t name_size, const uint8_t *extra, size_t extra_size, const uint8_t *payload, size_t payload_size) noexcept nogil:
    cdef size_t size = (sizeof(Record) + name_size + extra_size + payload_size + 7) // 8 * 8
    cdef Record *record
    cdef uint8_t *body
    if name_size > MOST_BYTES or extra_size > MOST_BYTES or payload_size > MOST_BYTES or size > MOST_BYTES:
        return NULL
    if pipe.out_at == pipe.out_end:
        _empty(&pipe.output, &pipe.out_at, &pipe.out_end, &pipe.out_capacity)
    if not _fit(&pipe.output, &pipe.out_at, &pipe.out_end, &pipe.out_capacity, size):
        return NULL
    record = <Record *>(pipe.output + pipe.out_end)
    pipe.out_end += size
    memset(record, 0, sizeof(Record))
    record.size = <uint32_t>size
    record.type = <uint8_t>type
    record.name_size = <uint32_t>name_size
    record.extra_size = <uint32_t>extra_size
    record.payload_size = <uint32_t>payload_size
    body = <uint8_t *>record + sizeof(Record)
    if name_size:
        memcpy(body, name, name_size)
    if extra_size:
        memcpy(body + name_size, extra, extra_size)
    if payload_size:
        memcpy(body + name_size + extra_size, payload, payload_size)
    body += name_size + extra_size + payload_size
    while body < <uint8_t *>record + size:          # padding: no byte of ours that was not written leaves the process
        body[0] = 0
        body += 1
    return record


cdef bint pipe_flush(Pipe *pipe) noexcept nogil:
    cdef iovec piece
    cdef ssize_t took
    while pipe.out_at < pipe.out_end:
        piece.iov_base = pipe.output + pipe.out_at
        piece.iov_len = pipe.out_end - pipe.out_at
        took = write_some(pipe.fd, &piece, 1)
        if took == SOCKET_AGAIN:
            return True
        if took < 0:
            return False
        pipe.out_at += <size_t>took
    return True
