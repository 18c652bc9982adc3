# Histograms in the table of counters: HISTOGRAM_CELLS u64 each, one a bucket (not cumulative), then the sum.
from libc.stdint cimport uint64_t

cdef void observe_ns(uint64_t *cells, uint64_t ns) noexcept nogil
cdef void observe_count(uint64_t *cells, uint64_t count) noexcept nogil
