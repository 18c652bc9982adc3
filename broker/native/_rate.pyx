"""Token buckets of eight bytes: what one connection may send, what one worker may admit.

The generic cell rate algorithm: of a bucket only the moment is kept at which it will be full, so an idle connection's needs no
timer, and a million of them no loop that refills. Owned by whoever embeds the number; the reactor takes from it for each read pass
with the time of its turn. It decides nothing: what becomes of who takes too much is its caller's.
"""

from libc.stdint cimport uint64_t

cdef uint64_t MOST_UNITS = 1ULL << 32       # times NS_PER_SECOND it is below 2**63: no product here overflows
cdef uint64_t NS_PER_SECOND = 1000000000


cdef void rate_set(RateRule *rule, uint64_t per_second, uint64_t burst) noexcept nogil:
    rule.per_second = per_second
    rule.burst_ns = burst * NS_PER_SECOND // per_second if per_second else 0


cdef bint rate_take(const RateRule *rule, uint64_t *full_at_ns, uint64_t units, uint64_t now_ns) noexcept nogil:
    cdef uint64_t missing_ns = full_at_ns[0] - now_ns if full_at_ns[0] > now_ns else 0
    if rule.per_second == 0:
        return True
    # Rounded down: a nanosecond in favour of the client, each time.
    missing_ns += units * NS_PER_SECOND // rule.per_second
    if missing_ns > rule.burst_ns:
        return False
    full_at_ns[0] = now_ns + missing_ns
    return True


cdef class Bucket:
    """One bucket for Python. `per_second` 0 = no bound."""
    cdef RateRule rule
    cdef uint64_t full_at_ns

    def __init__(self, uint64_t per_second, uint64_t burst):
        if per_second > MOST_UNITS or burst > MOST_UNITS:
            raise ValueError(f"{per_second} a second, {burst} at once: each is at most 2**32")
        rate_set(&self.rule, per_second, burst)
        self.full_at_ns = 0

    def take(self, uint64_t units, uint64_t now_ns) -> bool:
        """False = there are not so many units, and nothing is taken."""
        if units > MOST_UNITS:
            raise ValueError(f"{units} units: at most 2**32")
        return rate_take(&self.rule, &self.full_at_ns, units, now_ns)
