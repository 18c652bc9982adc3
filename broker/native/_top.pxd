# What is busiest and what is slowest now: the best few of many, by a number of each.
from libc.stdint cimport uint64_t

cdef class Best:
    cdef list heap
    cdef Py_ssize_t most
    cdef uint64_t floor                 # whoever has no more than this is not among them
    cdef uint64_t order
    cdef int keep(self, uint64_t value, object what) except -1
