from broker.native._queue cimport Lane, Outbox, Outboxes

# Puts an outbox in a lane, or moves it to a more urgent one.
cdef void lane_mark(Outboxes *all, Outbox *box, Lane lane) noexcept nogil
cdef void lane_leave(Outboxes *all, Outbox *box) noexcept nogil
cdef Outbox *lane_take(Outboxes *all, Lane lane) noexcept nogil
