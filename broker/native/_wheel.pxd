# Hashed timer wheel (Varghese and Lauck 1987, scheme 6): one intrusive timer a connection, start and stop O(1), no allocation.
from libc.stdint cimport uint32_t

cdef enum:
    WHEEL_BUCKETS = 1024        # power of two; a later deadline is looked at once a turn of the wheel

cdef struct Timer:
    Timer *next
    Timer *previous
    uint32_t tick               # when it is due; 0 = not in the wheel

cdef struct Wheel:
    Timer *buckets[1024]
    uint32_t tick               # the last tick that was run

cdef void wheel_init(Wheel *wheel, uint32_t tick) noexcept nogil
# Starts the timer, or moves it. A tick that has passed means the next one.
cdef void wheel_set(Wheel *wheel, Timer *timer, uint32_t tick) noexcept nogil
cdef void wheel_stop(Wheel *wheel, Timer *timer) noexcept nogil
# The next timer that is due at or before `now`, taken out of the wheel; NULL = none left.
cdef Timer *wheel_due(Wheel *wheel, uint32_t now) noexcept nogil
