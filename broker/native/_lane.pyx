"""Lanes: which outboxes wait to be flushed, and how urgently. Doubly linked, an outbox in one at most.

Above the queues, which know of no lane: whoever frees an outbox lets it leave its lane first.
"""

from broker.native._queue cimport LANE_NONE, Lane, Outbox, Outboxes


cdef void lane_mark(Outboxes *all, Outbox *box, Lane lane) noexcept nogil:
    if box.lane:
        if box.lane <= lane:
            return
        lane_leave(all, box)
    box.lane = lane
    box.lane_next = NULL
    box.lane_previous = all.lane_tail[<int>lane]
    if box.lane_previous == NULL:
        all.lane_head[<int>lane] = box
    else:
        box.lane_previous.lane_next = box
    all.lane_tail[<int>lane] = box


cdef void lane_leave(Outboxes *all, Outbox *box) noexcept nogil:
    if box.lane == LANE_NONE:
        return
    if box.lane_previous == NULL:
        all.lane_head[box.lane] = box.lane_next
    else:
        box.lane_previous.lane_next = box.lane_next
    if box.lane_next == NULL:
        all.lane_tail[box.lane] = box.lane_previous
    else:
        box.lane_next.lane_previous = box.lane_previous
    box.lane = LANE_NONE
    box.lane_next = box.lane_previous = NULL


cdef Outbox *lane_take(Outboxes *all, Lane lane) noexcept nogil:
    cdef Outbox *box = all.lane_head[<int>lane]
    if box != NULL:
        lane_leave(all, box)
    return box
