# What a channel was given in the last seconds: two increments a message. Inline and by itself, because the hub embeds it and
# whoever looks (_top) needs the hub.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    WINDOW_NS = 5000000000

# The seconds that activity is counted in, the same ones for all channels of a worker. Two of them are looked at: the one that
# runs and the one before.
cdef struct Window:
    uint64_t ends_ns
    uint32_t number

# Of one channel, zeroed with it. First the window `number`, then the one before.
cdef struct Activity:
    uint32_t number
    uint32_t messages[2]
    uint64_t deliveries[2]

cdef inline void window_turn(Window *window, uint64_t now_ns) noexcept nogil:
    """A window begins with the first message after the last one. The number of a channel that has none yet, 0, is of none."""
    if now_ns >= window.ends_ns:
        window.number += 1 if now_ns < window.ends_ns + WINDOW_NS else 2
        window.ends_ns = now_ns + WINDOW_NS

cdef inline void activity_turn(Activity *activity, uint32_t number) noexcept nogil:
    cdef bint next = number == activity.number + 1
    if number == activity.number:
        return
    activity.messages[1] = activity.messages[0] if next else 0
    activity.deliveries[1] = activity.deliveries[0] if next else 0
    activity.messages[0] = 0
    activity.deliveries[0] = 0
    activity.number = number

cdef inline void activity_count(Activity *activity, uint32_t number, uint64_t deliveries) noexcept nogil:
    activity_turn(activity, number)
    activity.messages[0] += 1
    activity.deliveries[0] += deliveries

cdef inline uint64_t activity_messages(const Activity *activity) noexcept nogil:
    return <uint64_t>activity.messages[0] + activity.messages[1]

cdef inline uint64_t activity_deliveries(const Activity *activity) noexcept nogil:
    return activity.deliveries[0] + activity.deliveries[1]
