# WebSocket frames from the client (RFC 6455 section 5): bytes in, events out. Sans-IO: no socket, no clock, no Python object.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# What frames_next found. Everything up to `*used` has been consumed.
cdef enum FrameEvent:
    FRAME_NEED_MORE = 0     # all bytes given were consumed; nothing complete yet
    FRAME_MESSAGE = 1       # a whole text or binary message: parsed.opcode (1 or 2), parsed.data, parsed.size
    FRAME_PING = 2          # parsed.data, parsed.size (<= 125)
    FRAME_PONG = 3
    FRAME_CLOSE = 4         # parsed.close_code (0 = the body was empty), parsed.data/size = the reason, valid UTF-8
    FRAME_FAILED = 5        # parsed.failure; the parser takes nothing more and repeats this event

# Why a connection is failed; FAILURES in the .pyx maps each to (close code, word, fixed text), one row each.
cdef enum FrameFailure:
    FAIL_NONE = 0
    FAIL_UNMASKED = 1               # F1  1002
    FAIL_RSV = 2                    # F2  1002
    FAIL_OPCODE = 3                 # F3  1002
    FAIL_CONTROL_FRAGMENTED = 4     # F4  1002
    FAIL_CONTROL_TOO_LONG = 5       # F4  1002
    FAIL_LENGTH_MSB = 6             # F5  1002  most significant bit of a 64-bit length
    FAIL_LENGTH_NOT_MINIMAL = 7     # F5  1002
    FAIL_CONTINUATION_UNEXPECTED = 8    # F6  1002
    FAIL_CONTINUATION_EXPECTED = 9      # F6  1002
    FAIL_UTF8 = 10                  # F9  1007
    FAIL_MESSAGE_TOO_BIG = 11       # F10 1009  decided from the frame header, before any payload is kept
    FAIL_TOO_MANY_FRAGMENTS = 12    # F10 1009
    FAIL_CLOSE_BODY = 13            # C1  1002  one byte
    FAIL_CLOSE_CODE = 14            # C1  1002
    FAIL_CLOSE_UTF8 = 15            # C1  1007
    FAIL_NO_MEMORY = 16             #     1011

cdef struct FrameLimits:
    uint64_t max_message_bytes      # inclusive; sum over the fragments of one message; counts as 2**32 - 1 if larger
    uint32_t max_fragments          # frames in one message, empty ones too; at least 1

cdef struct Parsed:
    uint8_t *data                   # BORROWED until the next call with this parser or the end of the caller's buffer
    size_t size
    uint32_t frames                 # that a message came in; 1 for control frames
    uint16_t close_code
    uint8_t opcode
    uint8_t failure

# One per connection, embedded, one cache line; all zero is a valid start. `held` and `control` are the only memory it owns: freed by frames_free, and at the next call once the event that points into them was handed out.
cdef struct FrameParser:
    uint8_t *held                   # OWNED: the message assembled so far (fragments, or one frame spread over reads)
    uint32_t held_size
    uint32_t held_capacity
    uint64_t frame_left             # payload bytes of the current frame still to come
    uint8_t *control                # OWNED: 125 bytes, only while a control frame is spread over reads
    uint32_t fragments              # frames of the current message so far
    uint8_t utf8_state
    uint8_t stage
    uint8_t message_opcode          # 0 = no message open
    uint8_t frame_opcode
    uint8_t frame_fin
    uint8_t failure
    uint8_t mask[4]
    uint8_t mask_phase
    uint8_t control_size
    uint8_t head_size
    uint8_t head[14]                # a frame header spread over reads

# Takes bytes of `data` (MUTABLE: unmasked in place, only those consumed) until one event is complete. Returns a FrameEvent, sets *used. Linear in size however the bytes are split.
# Fast path: a message that lies whole in `data` is never copied; parsed.data points into `data`.
# Call it until FRAME_NEED_MORE, with what is left of `data` (size 0 is allowed): that call is also the one that frees a message which had to be assembled, so an idle parser holds nothing.
# After FRAME_CLOSE it swallows whatever follows (RFC 6455 section 1.4) and answers FRAME_NEED_MORE; with FRAME_FAILED `*used` is `size`.
cdef int frames_next(FrameParser *parser, const FrameLimits *limits, uint8_t *data, size_t size, size_t *used, Parsed *parsed) noexcept nogil
# Releases what the parser holds; the parser is as new afterwards.
cdef void frames_free(FrameParser *parser) noexcept nogil
# Bytes of memory held between calls (for the worker's physical budget).
cdef size_t frames_held(const FrameParser *parser) noexcept nogil
# True while a message or a control frame has begun (first byte of its first frame header seen) and is not complete: the message completion deadline runs.
cdef bint frames_in_message(const FrameParser *parser) noexcept nogil
# Writes a server frame header (FIN, unmasked) for `size` payload bytes to `out` (room for 10), returns its length.
cdef size_t frame_header(uint8_t *out, uint8_t opcode, uint64_t size) noexcept nogil
# Incremental UTF-8 (RFC 3629): returns the new state; 0 = at a character boundary, UTF8_REJECT = not UTF-8.
cdef enum:
    UTF8_REJECT = 1
cdef uint32_t utf8_check(uint32_t state, const uint8_t *data, size_t size) noexcept nogil
