# Token buckets: so many units at once, so many a second in the long run. Sans-IO: the caller brings the time.
from libc.stdint cimport uint64_t

cdef struct RateRule:
    uint64_t per_second     # units; 0 = no bound
    uint64_t burst_ns       # what a full bucket holds, as the time it takes to fill

# A bucket is one number, all zero is a full one: when it will be full again. It needs no refilling, and no clock of its own.
cdef void rate_set(RateRule *rule, uint64_t per_second, uint64_t burst) noexcept nogil
# Takes `units` (at most 2**32) from the bucket. False = there are not so many, and nothing is taken. The time never goes back.
cdef bint rate_take(const RateRule *rule, uint64_t *full_at_ns, uint64_t units, uint64_t now_ns) noexcept nogil
