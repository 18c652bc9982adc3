"""Histograms of times and of counts, in the table of counters.

A bucket is found by walking up the bounds: what is usual lies in the first few, so it costs less than a search. Called once a
message, a handshake or a tick, never once a delivery.
"""

from libc.stdint cimport int64_t, uint64_t

from broker.native._counters cimport HISTOGRAM_CELLS

cdef enum:
    BOUNDS = HISTOGRAM_CELLS - 2        # the last bucket has no bound; then the sum

# 1, 2.5, 5 of each decade from 50 us, which is some sends, to 10 s, after which clients have been given up.
TIME_BOUNDS_NS = (
    50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000,
    500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
)
COUNT_BOUNDS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)

cdef uint64_t[BOUNDS] times
cdef uint64_t[BOUNDS] counts
assert len(TIME_BOUNDS_NS) == len(COUNT_BOUNDS) == BOUNDS, "one bucket for each bound"
for i in range(BOUNDS):
    times[i] = TIME_BOUNDS_NS[i]
    counts[i] = COUNT_BOUNDS[i]


cdef inline void _observe(uint64_t *cells, const uint64_t *bounds, uint64_t value) noexcept nogil:
    cdef int at = 0
    while at < BOUNDS and value > bounds[at]:
        at += 1
    cells[at] += 1
    cells[BOUNDS + 1] += value


cdef void observe_ns(uint64_t *cells, uint64_t ns) noexcept nogil:
    _observe(cells, times, ns)


cdef void observe_count(uint64_t *cells, uint64_t count) noexcept nogil:
    _observe(cells, counts, count)


def observe(uint64_t[::1] table not None, int first, int64_t ns):
    """For Python: a time of the histogram that begins at cell `first` of the table (HISTOGRAMS of _counters). Below 0 is 0."""
    if first < 0 or first + HISTOGRAM_CELLS > table.shape[0]:
        raise IndexError(f"no histogram begins at {first}")
    observe_ns(&table[first], 0 if ns < 0 else <uint64_t>ns)
