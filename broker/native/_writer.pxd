# Writes the front of an outbox: many small frames in one send, large ones by reference.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from broker.native._queue cimport Outbox, Outboxes

cdef enum Wrote:
    WROTE_ALL = 0           # the outbox is empty
    WROTE_SHORT = 1         # the kernel took less than it was given: wait for POLL_OUT
    WROTE_SOME = 2          # the kernel took all of this round, more is queued: come again
    WROTE_FAILED = 3        # the connection is gone

cdef enum:
    SCRATCH_BYTES = 65536
    GATHER_BELOW_BYTES = 1024       # a frame smaller than this is copied: cheaper than an iovec each (measured at 64 frames)
    MOST_PIECES = 64
    REMEMBERED = 2048

cdef struct Writer:
    Outboxes *all
    uint8_t *scratch                # OWNED, SCRATCH_BYTES
    uint64_t *remembered            # OWNED: `born` of the frames that lie gathered in scratch, REMEMBERED at most
    uint32_t remembered_count       # 0 = scratch holds nothing that can be sent again
    size_t remembered_size

cdef bint writer_init(Writer *writer, Outboxes *all) noexcept nogil
cdef void writer_free(Writer *writer) noexcept nogil
# One send at most. `flags` collects Written flags of what went out.
cdef Wrote writer_flush(Writer *writer, Outbox *box, int fd, int *flags) noexcept nogil
