"""One send for all that waits in an outbox.

A send call costs 7-9 us whoever makes it, so what was published in one turn goes out in one call. Small frames are copied into
one scratch buffer; and since the subscribers of a busy channel all wait for the same frames, the buffer gathered for one of them
is sent to the next as it stands. Frames are recognised by `born`, which is never used twice, not by address.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from broker.native._counters cimport N_BYTES_WRITTEN, N_WRITES
from broker.native._queue cimport (
    Frame, Outbox, Outboxes, Slot, outbox_front, outbox_render, outbox_slot, outbox_written,
)
from broker.native._socket cimport SOCKET_AGAIN, iovec, write_some


cdef bint writer_init(Writer *writer, Outboxes *all) noexcept nogil:
    writer.all = all
    writer.remembered_count = 0
    writer.scratch = <uint8_t *>malloc(SCRATCH_BYTES)                           # freed by writer_free
    writer.remembered = <uint64_t *>malloc(REMEMBERED * sizeof(uint64_t))       # freed by writer_free
    return writer.scratch != NULL and writer.remembered != NULL


cdef void writer_free(Writer *writer) noexcept nogil:
    free(writer.scratch)
    free(writer.remembered)
    writer.scratch = NULL
    writer.remembered = NULL


cdef inline bint _gathered_already(Writer *writer, Outbox *box) noexcept nogil:
    cdef uint32_t i
    cdef Frame *frame
    if box.count != writer.remembered_count or box.head_offset or box.tombstones:
        return False
    for i in range(box.count):
        frame = outbox_slot(box, i).frame
        if frame == NULL or frame.born != writer.remembered[i]:
            return False
    return True


cdef int _gather(Writer *writer, Outbox *box, iovec *pieces, size_t *total) noexcept nogil:
    """Lays out the front of the outbox in at most MOST_PIECES pieces; returns how many."""
    cdef uint32_t place, taken = 0
    cdef int count = 0
    cdef size_t used = 0, size, offset = box.head_offset
    cdef bint whole = offset == 0, open_piece = False
    cdef Slot *slot
    cdef uint8_t *data
    total[0] = 0
    writer.remembered_count = 0
    for place in range(box.count):
        slot = outbox_slot(box, place)
        if slot.frame == NULL and not outbox_render(writer.all, box, place):
            whole = False
            continue
        data = slot.frame.data + offset
        size = slot.frame.size - offset
        offset = 0
        if size < GATHER_BELOW_BYTES:
            if used + size > SCRATCH_BYTES or (not open_piece and count == MOST_PIECES):
                whole = False
                break
            if not open_piece:
                pieces[count].iov_base = writer.scratch + used
                pieces[count].iov_len = 0
                count += 1
                open_piece = True
            memcpy(writer.scratch + used, data, size)
            used += size
            pieces[count - 1].iov_len += size
            if taken < REMEMBERED:
                writer.remembered[taken] = slot.frame.born
            taken += 1
        else:
            whole = False
            open_piece = False
            if count == MOST_PIECES:
                break
            pieces[count].iov_base = data
            pieces[count].iov_len = size
            count += 1
        total[0] += size
    if whole and taken <= REMEMBERED:
        writer.remembered_count = taken
        writer.remembered_size = used
    return count


cdef Wrote writer_flush(Writer *writer, Outbox *box, int fd, int *flags) noexcept nogil:
    cdef iovec pieces[MOST_PIECES]
    cdef Slot *slot
    cdef size_t total
    cdef ssize_t took
    cdef int count = 1
    if not outbox_front(writer.all, box):
        return WROTE_ALL
    if box.count == 1:
        slot = outbox_slot(box, 0)
        total = slot.frame.size - box.head_offset
        pieces[0].iov_base = slot.frame.data + box.head_offset
        pieces[0].iov_len = total
    elif _gathered_already(writer, box):
        total = writer.remembered_size
        pieces[0].iov_base = writer.scratch
        pieces[0].iov_len = total
    else:
        count = _gather(writer, box, pieces, &total)
    took = write_some(fd, pieces, count)
    if took < 0:
        return WROTE_SHORT if took == SOCKET_AGAIN else WROTE_FAILED
    writer.all.counters[N_WRITES] += 1
    writer.all.counters[N_BYTES_WRITTEN] += <uint64_t>took
    flags[0] |= outbox_written(writer.all, box, <size_t>took)
    if <size_t>took < total:
        return WROTE_SHORT
    return WROTE_SOME if box.count or box.pong != NULL else WROTE_ALL
