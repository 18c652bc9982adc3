# JSON on the publish edge: checks and writes text, builds no object. Sans-IO.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

# Why a text is refused; PROBLEMS in the .pyx has the word and the fixed text of each.
cdef enum JsonProblem:
    JSON_OK = 0
    JSON_SYNTAX = 1         # not one JSON value (RFC 8259)
    JSON_DEPTH = 2          # nested deeper than max_depth
    JSON_SURROGATE = 3      # a \uD800-\uDFFF escape without its partner: no UTF-8 exists for it
    JSON_NUMBER = 4         # does not fit: an integer beyond -2**63 .. 2**64-1, or a number whose value overflows binary64
    JSON_UTF8 = 5           # raw bytes that are not UTF-8

# Checks that data[:size] is exactly one JSON value (white space around it allowed). `where` gets the offset of the fault. Does not recurse. The bytes need not be known to be UTF-8.
# max_depth is at most 64: the nesting is kept in the bits of one word.
cdef int json_check(const uint8_t *data, size_t size, int max_depth, size_t *where) noexcept nogil
# Length of the JSON string literal, quotes included, for UTF-8 `text`.
cdef size_t json_string_size(const uint8_t *text, size_t size) noexcept nogil
# Writes that literal, returns the end. Escapes only what RFC 8259 demands (", \, U+0000-U+001F), short forms where they exist.
cdef uint8_t *json_string_write(uint8_t *out, const uint8_t *text, size_t size) noexcept nogil
# Standard base64 with padding (RFC 4648 section 4): 4 * ((size + 2) // 3) bytes.
cdef size_t base64_size(size_t size) noexcept nogil
cdef uint8_t *base64_write(uint8_t *out, const uint8_t *data, size_t size) noexcept nogil
