"""WebSocket frames from the client (RFC 6455 sections 5 and 7.4): bytes in, messages, pings, pongs and closes out.

It owns the rules of framing, what is kept of a message that is not complete, and the texts of failures. The reactor calls
it through the header, once per event; ``Frames`` is the same parser for tests and tools. It never touches a socket or a
clock, never answers the peer, and calls no Python between ``frames_next`` and its return.

A frame goes through ``header_read`` (everything that can be refused from the header is refused there, before any payload
is kept), then ``message_take`` or ``control_take``. Only a frame that is spread over reads, or a fragment, is copied.
"""
from libc.stdint cimport UINT32_MAX
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from "_mask.h" nogil:
    int broker_unmask(uint8_t *data, size_t size, const uint8_t *key, unsigned phase) noexcept

cdef extern from "_utf8.h" nogil:
    enum:
        BROKER_UTF8_BOUNDARY
    uint32_t broker_utf8_check(uint32_t state, const uint8_t *data, size_t size) noexcept

cdef enum:
    OPCODE_CONTINUATION = 0x0
    OPCODE_TEXT = 0x1
    OPCODE_BINARY = 0x2
    OPCODE_CLOSE = 0x8
    OPCODE_PING = 0x9
    OPCODE_PONG = 0xA

    FIN_BIT = 0x80
    RSV_BITS = 0x70
    MASK_BIT = 0x80
    HEADER_MAX = 14         # 2 + 8 bytes of length + 4 of mask
    CONTROL_MAX = 125       # RFC 6455 section 5.5
    HELD_FIRST = 64         # first allocation for a message in pieces; doubled from there

# Where the parser stands. From STAGE_DELIVERED on, something has to be done before bytes are taken.
cdef enum:
    STAGE_HEADER = 0
    STAGE_MESSAGE = 1       # in the payload of a text, binary or continuation frame
    STAGE_CONTROL = 2       # in the payload of a control frame
    STAGE_DELIVERED = 3     # between frames, and the last event points into `control` or else `held`
    STAGE_CLOSED = 4        # a Close frame was delivered: the rest is swallowed
    STAGE_FAILED = 5

# (close code, word for metrics, text for the close reason), indexed by FrameFailure.
FAILURES = (
    (0, "none", ""),
    (1002, "frame_unmasked", "frame is not masked"),
    (1002, "frame_reserved_bits", "reserved bit set without an extension"),
    (1002, "frame_opcode", "unknown opcode"),
    (1002, "control_fragmented", "control frame is fragmented"),
    (1002, "control_too_long", "control frame is longer than 125 bytes"),
    (1002, "length_most_significant_bit", "most significant bit of the payload length is set"),
    (1002, "length_not_minimal", "payload length is not minimally encoded"),
    (1002, "continuation_unexpected", "continuation frame without a message"),
    (1002, "continuation_expected", "new message inside a fragmented one"),
    (1007, "text_not_utf8", "text message is not UTF-8"),
    (1009, "message_too_big", "message is too big"),
    (1009, "too_many_fragments", "message has too many fragments"),
    (1002, "close_body", "close frame body is one byte"),
    (1002, "close_code", "invalid close code"),
    (1007, "close_reason_not_utf8", "close reason is not UTF-8"),
    (1011, "no_memory", "out of memory"),
)


cdef uint32_t utf8_check(uint32_t state, const uint8_t *data, size_t size) noexcept nogil:
    return broker_utf8_check(state, data, size)


cdef void frames_free(FrameParser *parser) noexcept nogil:
    free(parser.held)
    free(parser.control)
    memset(parser, 0, sizeof(FrameParser))


cdef size_t frames_held(const FrameParser *parser) noexcept nogil:
    return parser.held_capacity + (<size_t>CONTROL_MAX if parser.control != NULL else 0)


cdef bint frames_in_message(const FrameParser *parser) noexcept nogil:
    return (
        parser.message_opcode != 0
        or parser.head_size != 0
        or parser.stage == STAGE_MESSAGE
        or parser.stage == STAGE_CONTROL
    )


cdef inline void held_free(FrameParser *parser) noexcept nogil:
    free(parser.held)
    parser.held = NULL
    parser.held_size = 0
    parser.held_capacity = 0


cdef int fail(FrameParser *parser, Parsed *parsed, FrameFailure failure) noexcept nogil:
    frames_free(parser)
    parser.stage = STAGE_FAILED
    parser.failure = failure
    parsed.failure = failure
    parsed.data = NULL  # may have pointed into what was freed
    parsed.size = 0
    return FRAME_FAILED


cdef inline uint64_t message_max(const FrameLimits *limits) noexcept nogil:
    # held_size and held_capacity are 32 bits wide.
    return limits.max_message_bytes if limits.max_message_bytes < UINT32_MAX else UINT32_MAX


cdef inline FrameFailure first_byte_check(
    const FrameParser *parser, const FrameLimits *limits, uint8_t first, uint8_t opcode
) noexcept nogil:
    if first & RSV_BITS:
        return FAIL_RSV
    if opcode & 0x8:
        if opcode > OPCODE_PONG:
            return FAIL_OPCODE
        return FAIL_NONE if first & FIN_BIT else FAIL_CONTROL_FRAGMENTED
    if opcode > OPCODE_BINARY:
        return FAIL_OPCODE
    if opcode == OPCODE_CONTINUATION:
        if parser.message_opcode == 0:
            return FAIL_CONTINUATION_UNEXPECTED
    elif parser.message_opcode != 0:
        return FAIL_CONTINUATION_EXPECTED
    return FAIL_TOO_MANY_FRAGMENTS if parser.fragments >= limits.max_fragments else FAIL_NONE


# Reads the frame header at head[:have], have >= 1. Returns its length and starts the frame; 0 = it is not complete, or parser.failure is set.
# Rules are checked in the order of the bytes they need, so that the verdict does not depend on how the bytes were split; and in full before anything in the parser changes.
cdef inline size_t header_read(
    FrameParser *parser, const FrameLimits *limits, const uint8_t *head, size_t have
) noexcept nogil:
    cdef uint8_t first = head[0], opcode = first & 0x0F
    cdef uint64_t length, limit
    cdef size_t at = 2
    cdef int i
    parser.failure = first_byte_check(parser, limits, first, opcode)
    if parser.failure or have < 2:
        return 0
    if not head[1] & MASK_BIT:
        parser.failure = FAIL_UNMASKED
        return 0
    length = head[1] & 0x7F
    if opcode & 0x8:
        if length > CONTROL_MAX:
            parser.failure = FAIL_CONTROL_TOO_LONG
            return 0
    else:
        if length == 126:
            if have < 4:
                return 0
            length = <uint64_t>head[2] << 8 | head[3]
            at = 4
            if length < 126:
                parser.failure = FAIL_LENGTH_NOT_MINIMAL
                return 0
        elif length == 127:
            if have < 10:
                return 0
            length = 0
            for i in range(2, 10):
                length = length << 8 | head[i]
            at = 10
            if length >> 63:
                parser.failure = FAIL_LENGTH_MSB
                return 0
            if length < 65536:
                parser.failure = FAIL_LENGTH_NOT_MINIMAL
                return 0
        limit = message_max(limits)
        # Unsigned, and no sum that could wrap. The first half: limits may have been lowered under an open message.
        if parser.held_size > limit or length > limit - parser.held_size:
            parser.failure = FAIL_MESSAGE_TOO_BIG
            return 0
    if have < at + 4:
        return 0

    memcpy(parser.mask, head + at, 4)
    parser.mask_phase = 0
    parser.frame_opcode = opcode
    parser.frame_fin = first & FIN_BIT
    parser.frame_left = length
    if opcode & 0x8:
        parser.stage = STAGE_CONTROL
    else:
        parser.stage = STAGE_MESSAGE
        parser.fragments += 1
        if opcode != OPCODE_CONTINUATION:
            parser.message_opcode = opcode
    return at + 4


# Appends to the message being assembled. The buffer follows what has arrived, never what was declared; it doubles, so that single bytes cost linear time, and stops at what the message can still become.
# `held` is freed by frames_free, or by frames_next at the call after the message was delivered.
cdef bint held_append(FrameParser *parser, const FrameLimits *limits, const uint8_t *data, size_t size) noexcept nogil:
    cdef uint64_t needed = <uint64_t>parser.held_size + size, capacity, most
    cdef uint8_t *grown
    if needed > parser.held_capacity:
        most = message_max(limits)
        if parser.frame_fin:  # the last frame: frame_left still counts `size`
            most = min(most, parser.held_size + parser.frame_left)
        capacity = max(<uint64_t>parser.held_capacity * 2, <uint64_t>HELD_FIRST)
        capacity = max(min(capacity, most), needed)
        if capacity > UINT32_MAX:  # only if limits grew in the middle of a frame
            return False
        grown = <uint8_t *>realloc(parser.held, <size_t>capacity)
        if grown == NULL:
            return False
        parser.held = grown
        parser.held_capacity = <uint32_t>capacity
    memcpy(parser.held + parser.held_size, data, size)
    parser.held_size = <uint32_t>needed
    return True


# Takes the payload of a data frame from data[:left].
cdef inline int message_take(
    FrameParser *parser, const FrameLimits *limits, uint8_t *data, size_t left, size_t *taken, Parsed *parsed
) noexcept nogil:
    cdef size_t take = left if left < parser.frame_left else <size_t>parser.frame_left
    cdef bint whole = parser.held_size == 0 and parser.frame_fin != 0 and take == parser.frame_left
    cdef int wide
    taken[0] = take
    if take:
        wide = broker_unmask(data, take, parser.mask, parser.mask_phase)
        if parser.message_opcode == OPCODE_TEXT and (wide or parser.utf8_state != BROKER_UTF8_BOUNDARY):
            parser.utf8_state = <uint8_t>broker_utf8_check(parser.utf8_state, data, take)
            if parser.utf8_state == UTF8_REJECT:
                return fail(parser, parsed, FAIL_UTF8)
        if not whole and not held_append(parser, limits, data, take):
            return fail(parser, parsed, FAIL_NO_MEMORY)
        parser.mask_phase = (parser.mask_phase + take) & 3
        parser.frame_left -= take
    if parser.frame_left:
        return FRAME_NEED_MORE
    parser.stage = STAGE_HEADER
    if not parser.frame_fin:
        return FRAME_NEED_MORE

    if parser.utf8_state != BROKER_UTF8_BOUNDARY:
        return fail(parser, parsed, FAIL_UTF8)
    parsed.opcode = parser.message_opcode
    if whole:
        parsed.data = data
        parsed.size = take
    else:
        parsed.data = parser.held
        parsed.size = parser.held_size
        parser.held_size = 0
        parser.stage = STAGE_DELIVERED
    parsed.frames = parser.fragments
    parser.message_opcode = 0
    parser.fragments = 0
    return FRAME_MESSAGE


# RFC 6455 section 7.4: 1004-1006 and 1015 never travel; what is below 3000 and unassigned is refused.
cdef inline bint close_code_allowed(unsigned code) noexcept nogil:
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef int close_take(FrameParser *parser, Parsed *parsed) noexcept nogil:
    parsed.close_code = 0
    if parsed.size == 1:
        return fail(parser, parsed, FAIL_CLOSE_BODY)
    if parsed.size >= 2:
        parsed.close_code = <uint16_t>(<unsigned>parsed.data[0] << 8 | parsed.data[1])
        parsed.data += 2
        parsed.size -= 2
        if broker_utf8_check(BROKER_UTF8_BOUNDARY, parsed.data, parsed.size) != BROKER_UTF8_BOUNDARY:
            return fail(parser, parsed, FAIL_CLOSE_UTF8)
        if not close_code_allowed(parsed.close_code):
            return fail(parser, parsed, FAIL_CLOSE_CODE)
    held_free(parser)  # a message that was open will not be completed any more
    parser.message_opcode = 0
    parser.stage = STAGE_CLOSED
    return FRAME_CLOSE


# Takes the payload of a control frame from data[:left]. Nothing of an open message is touched.
cdef int control_take(FrameParser *parser, uint8_t *data, size_t left, size_t *taken, Parsed *parsed) noexcept nogil:
    cdef size_t take = left if left < parser.frame_left else <size_t>parser.frame_left
    cdef bint whole = parser.control_size == 0 and take == parser.frame_left
    taken[0] = take
    if take:
        broker_unmask(data, take, parser.mask, parser.mask_phase)
        if not whole:
            if parser.control == NULL:  # freed by frames_free, or at the call after it was delivered
                parser.control = <uint8_t *>malloc(CONTROL_MAX)
                if parser.control == NULL:
                    return fail(parser, parsed, FAIL_NO_MEMORY)
            memcpy(parser.control + parser.control_size, data, take)
            parser.control_size += <uint8_t>take
        parser.mask_phase = (parser.mask_phase + take) & 3
        parser.frame_left -= take
    if parser.frame_left:
        return FRAME_NEED_MORE
    parsed.frames = 1
    if whole:
        parsed.data = data
        parsed.size = take
        parser.stage = STAGE_HEADER
    else:
        parsed.data = parser.control
        parsed.size = parser.control_size
        parser.control_size = 0
        parser.stage = STAGE_DELIVERED
    if parser.frame_opcode == OPCODE_CLOSE:
        return close_take(parser, parsed)
    return FRAME_PING if parser.frame_opcode == OPCODE_PING else FRAME_PONG


# What has to be done before bytes are taken again. False = none will be taken.
cdef bint resume(FrameParser *parser) noexcept nogil:
    if parser.stage == STAGE_FAILED:
        return False
    if parser.control != NULL:
        free(parser.control)
        parser.control = NULL
    elif parser.stage == STAGE_DELIVERED:
        held_free(parser)
    if parser.stage == STAGE_CLOSED:
        return False
    parser.stage = STAGE_HEADER
    return True


cdef int frames_next(
    FrameParser *parser, const FrameLimits *limits, uint8_t *data, size_t size, size_t *used, Parsed *parsed
) noexcept nogil:
    cdef size_t at = 0, taken, had, header_size
    cdef int event
    used[0] = size
    parsed.data = NULL
    parsed.size = 0
    if parser.stage >= STAGE_DELIVERED and not resume(parser):
        if parser.stage == STAGE_CLOSED:
            return FRAME_NEED_MORE
        parsed.failure = parser.failure
        return FRAME_FAILED
    while at < size:
        if parser.stage == STAGE_HEADER:
            had = parser.head_size
            if had == 0:
                taken = size - at
                header_size = header_read(parser, limits, data + at, taken)
                if header_size == 0 and parser.failure == FAIL_NONE:  # so at most 13 bytes are left
                    memcpy(parser.head, data + at, taken)
            else:
                taken = min(<size_t>HEADER_MAX - had, size - at)
                memcpy(parser.head + had, data + at, taken)
                header_size = header_read(parser, limits, parser.head, had + taken)
            if parser.failure:
                return fail(parser, parsed, <FrameFailure>parser.failure)
            if header_size == 0:  # had + taken < 14: no valid header of 14 bytes is incomplete
                parser.head_size = <uint8_t>(had + taken)
                return FRAME_NEED_MORE
            parser.head_size = 0
            at += header_size - had
        if parser.stage == STAGE_CONTROL:
            event = control_take(parser, data + at, size - at, &taken, parsed)
        else:
            event = message_take(parser, limits, data + at, size - at, &taken, parsed)
        at += taken
        if event != FRAME_NEED_MORE:
            if event != FRAME_FAILED:
                used[0] = at
            return event
    return FRAME_NEED_MORE


cdef size_t frame_header(uint8_t *out, uint8_t opcode, uint64_t size) noexcept nogil:
    cdef int i
    out[0] = FIN_BIT | opcode
    if size < 126:
        out[1] = <uint8_t>size
        return 2
    if size < 65536:
        out[1] = 126
        out[2] = <uint8_t>(size >> 8)
        out[3] = <uint8_t>size
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <uint8_t>(size >> (56 - 8 * i))
    return 10


PARSER_BYTES = sizeof(FrameParser)
Event = tuple  # a name for annotations; the .pyi says what is in it


def encode_frame(opcode, bytes payload not None):
    """One server frame: FIN set, not masked."""
    cdef uint8_t head[10]
    if not 0 <= opcode <= 0xF:
        raise ValueError(f"opcode {opcode}: not in 0..15")
    cdef size_t size = frame_header(head, opcode, len(payload))
    return (<char *>head)[:size] + payload


cdef class Frames:
    """One parser, for tests and tools; the broker's connections embed the struct instead."""

    cdef FrameParser parser
    cdef FrameLimits limits

    def __init__(self, max_message_bytes, max_fragments):
        if not 0 <= max_message_bytes < 2**32:
            raise ValueError(f"max_message_bytes {max_message_bytes}: not in 0..2**32-1")
        if not 1 <= max_fragments < 2**32:
            raise ValueError(f"max_fragments {max_fragments}: not in 1..2**32-1")
        self.limits.max_message_bytes = max_message_bytes
        self.limits.max_fragments = max_fragments
        frames_free(&self.parser)

    def __dealloc__(self):
        frames_free(&self.parser)

    @property
    def held_bytes(self):
        return frames_held(&self.parser)

    @property
    def in_message(self):
        return frames_in_message(&self.parser)

    def receive_data(self, bytes data not None):
        """Every event these bytes complete. After ("failed", word) each further call answers that alone."""
        cdef size_t size = len(data), at = 0, used = 0
        cdef Parsed parsed
        cdef int event
        # Exactly the size, so that AddressSanitizer sees a read beyond it; freed below.
        cdef uint8_t *buffer = <uint8_t *>malloc(size if size else 1)
        if buffer == NULL:
            raise MemoryError
        events = []
        try:
            memcpy(buffer, <const char *>data, size)
            while True:
                event = frames_next(&self.parser, &self.limits, buffer + at, size - at, &used, &parsed)
                at += used
                if event == FRAME_NEED_MORE:
                    return events
                if event == FRAME_FAILED:
                    events.append(("failed", FAILURES[parsed.failure][1]))
                    return events
                payload = (<char *>parsed.data)[:parsed.size]
                if event == FRAME_MESSAGE:
                    events.append(("text" if parsed.opcode == OPCODE_TEXT else "binary", payload))
                elif event == FRAME_CLOSE:
                    events.append(("close", parsed.close_code, payload))
                else:
                    events.append(("ping" if event == FRAME_PING else "pong", payload))
        finally:
            free(buffer)
