# Channels and their subscriptions on one worker: encode once a variant, offer the shared frame to every outbox.
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from broker.native._activity cimport Activity, Window
from broker.native._queue cimport Frame, Lane, Outbox, Outboxes, Subscription, Verdict

# What a payload is, which decides its opcode in raw and its field in JSON.
cdef enum Kind:
    KIND_DATA = 0       # one JSON value, checked: raw text frame, JSON field "data"
    KIND_TEXT = 1       # UTF-8: raw text frame, JSON field "text"
    KIND_BINARY = 2     # raw binary frame, JSON field "base64"

# What a channel takes (configuration `payload`).
cdef enum Payload:
    PAYLOAD_ANY = 0
    PAYLOAD_JSON = 1
    PAYLOAD_TEXT = 2
    PAYLOAD_BINARY = 3

cdef struct Entry:
    Outbox *outbox              # BORROWED from the connection, which leaves before it is freed
    Subscription *subscription  # BORROWED likewise

cdef struct Channel:
    PyObject *name              # OWNED bytes
    const uint8_t *text         # BORROWED: its characters
    uint32_t text_size
    Entry *entries              # OWNED; those that receive
    uint32_t count
    uint32_t capacity
    uint32_t behind             # subscriptions that read from the history and do not stand in `entries`
    uint32_t ties               # subscriptions of any kind; at 0 the channel goes
    uint32_t start              # where the next fan-out begins, so that nobody is always last
    uint8_t policy
    uint8_t payload
    uint8_t pattern             # its place among the pattern counters
    Activity recent             # what it was given in the last seconds

cdef struct Message:
    Channel *channel
    const uint8_t *payload      # BORROWED until publish returns
    size_t size
    const uint8_t *extra        # BORROWED: more members of the JSON envelope, each with its leading comma
    size_t extra_size
    uint64_t offset             # with history; else 0
    uint64_t time_ms            # 0 = now
    uint8_t kind

# How the hub reaches sockets without knowing them; set by the reactor.
cdef struct Transport:
    void *owner
    void (*flush_now)(void *owner, Outbox *box) noexcept nogil      # one write; may set box.blocked or box.closed
    void (*too_slow)(void *owner, Outbox *box) noexcept nogil       # the queue is full and may not lose: closes the connection, later
    void (*relieve)(void *owner) noexcept nogil                     # the worker is over its memory

cdef enum:
    BULK_FROM = 1000            # a fan-out of more goes to the bulk lane
    REPLAYED = 1024             # places of frames that were encoded for a replay and may serve the next

# A frame that a replay encoded, by channel, offset and format.
cdef struct Replayed:
    Channel *channel
    uint64_t offset
    Frame *frame                # OWNED until forget_replayed
    uint8_t format

cdef class Hub:
    cdef dict channels                  # bytes -> int (address of the Channel)
    cdef Outboxes all
    cdef Transport transport
    cdef uint64_t memory_bytes
    cdef Window window
    cdef object counters_owner
    cdef Replayed replayed[REPLAYED]
    cdef bint has_replayed
    cdef Channel *channel(self, bytes name, uint8_t policy, uint8_t payload, uint8_t pattern) except NULL
    cdef Channel *find(self, bytes name)
    cdef void untie(self, Channel *channel)
    cdef int join(self, Channel *channel, Outbox *box, Subscription *subscription, bint receives) except -1
    cdef int enter(self, Channel *channel, Subscription *subscription) except -1
    cdef void fall_behind(self, Subscription *subscription) noexcept nogil
    cdef void settle_lagging(self) noexcept nogil
    cdef void _withdraw(self, Subscription *subscription) noexcept nogil
    cdef Frame *replay_frame(self, uint8_t format, Message *message) noexcept nogil
    cdef void forget_replayed(self) noexcept nogil
    cdef void leave(self, Subscription *subscription)
    cdef Verdict _admit(self, Outbox *box, Subscription *subscription, size_t size) noexcept nogil
    cdef void _give_up(self, Outbox *box) noexcept nogil
    cdef void _offer(self, Entry *entry, Frame *frame, Lane lane) noexcept nogil
    cdef void count_published(self) noexcept nogil
    cdef int64_t publish_except(self, bytes name, uint8_t kind, bytes payload, bytes extra, Outbox *except_box, uint64_t offset, uint64_t time_ms) except -1
    cdef int64_t deliver(self, Message *message, Outbox *except_box) noexcept nogil
    cdef int64_t _tell(self, Channel *channel, Frame *frame) noexcept nogil
