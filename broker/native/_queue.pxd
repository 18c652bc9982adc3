# Bounded send queues: shared frames, one outbox a connection. No socket, no clock of its own, no Python object.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

# Encoded bytes for the wire, immutable and shared by every outbox they wait in. Freed when `refs` falls to 0.
cdef struct Frame:
    uint32_t refs
    uint32_t size
    uint64_t born                   # order of creation within the worker: the smaller, the older
    uint64_t offset                 # of a message with history; else 0
    uint64_t born_ns                # Outboxes.now_ns when it was made
    uint8_t timed                   # a message on its way from its publisher; a replay, an answer, a ping are not
    uint8_t data[1]                 # really `size` bytes

# What a full queue does with a message of this channel (design: only on a blocked connection).
cdef enum Policy:
    POLICY_DISCONNECT = 0
    POLICY_DROP_OLDEST = 1
    POLICY_DROP_NEWEST = 2
    POLICY_LATEST = 3
    POLICY_CATCH_UP = 4     # only for messages with an offset

cdef enum:         # Format: the variants a message is encoded in
    FORMAT_RAW = 0
    FORMAT_JSON = 1
    FORMATS = 2

# One (connection, channel). OWNED by the connection's list; lives on after it left the hub while slots of the ring still name it.
cdef struct Subscription:
    Outbox *outbox                  # BORROWED; valid while the subscription is attached or has slots
    void *channel                   # BORROWED Channel of _hub; NULL once detached
    Subscription *next              # the connection's list
    uint64_t missed                 # deliveries dropped since the last gap notice was written; missed_unknown = nobody knows
    uint64_t cursor                 # while untold: the offset after which it reads on from the history
    Subscription *next_lagging      # BORROWED: see Outboxes.lagging
    uint32_t index                  # place among the channel's entries
    uint32_t slots                  # slots of the ring that name it, the gap's too
    uint32_t live                   # unsent messages among them
    uint32_t oldest                 # sequence of the ring before which none of its messages stands
    uint8_t policy
    uint8_t receives                # stands in the channel's fan-out
    uint8_t sends
    uint8_t behind                  # reads from the history; with `receives`: lagging, about to leave the fan-out
    uint8_t untold                  # fell behind, and nobody who replays knows
    uint8_t gap_queued
    uint8_t detached
    uint8_t pattern                 # of its channel; counts drops

# A place in the ring. frame NULL and subscription set = a gap notice to be written here. Both NULL = a tombstone.
cdef struct Slot:
    Frame *frame                    # OWNED reference
    Subscription *subscription      # NULL or a tag below: not a delivery

cdef enum:
    TAG_PING = 1                    # slot.subscription of a ping: its deadline starts when it is written
    TAG_END = 2                     # slot.subscription of the last thing ever written to this connection
    TAGS = 3

cdef enum Written:
    WROTE_PING = 1
    WROTE_END = 2

cdef enum Lane:
    LANE_NONE = 0
    LANE_CONTROL = 1
    LANE_SMALL = 2
    LANE_BULK = 3

cdef inline uint64_t unknown_cursor() noexcept nogil:
    return <uint64_t>-1

cdef inline uint64_t missed_unknown() noexcept nogil:
    return <uint64_t>-1

cdef struct Outbox:
    Slot *ring                      # OWNED when capacity > INLINE_SLOTS, else inline_ring
    Slot inline_ring[2]
    Outbox *lane_next
    Outbox *lane_previous
    Frame *pong                     # OWNED: the latest pong, not yet in the ring
    uint32_t head                   # index of the first slot in the ring
    uint32_t count                  # slots in use, tombstones too
    uint32_t capacity               # power of two
    uint32_t tombstones
    uint32_t gaps                   # slots that are gap notices: not counted against the bounds, at most one a subscription
    uint32_t lossy_from             # sequence before which nothing stands that may be lost
    uint32_t sequence               # sequence of the first slot; wraps
    uint32_t head_offset            # bytes of the first frame already written; > 0: it can no longer be dropped
    uint32_t bytes                  # payload bytes of live slots
    uint32_t slot                   # the connection's place in the reactor's table
    uint8_t lane
    uint8_t format
    uint8_t blocked                 # the last write was short: skipped until the kernel says writable
    uint8_t closed                  # takes no more deliveries
    uint8_t wants_room              # somebody waits for it to be nearly empty

cdef enum:
    INLINE_SLOTS = 2
    SLOT_BYTES = 16

# What all outboxes of one worker share.
cdef struct Outboxes:
    Outbox *lane_head[4]
    Outbox *lane_tail[4]
    uint64_t *counters              # BORROWED: the worker's counter table
    uint32_t max_bytes
    uint32_t max_messages
    uint64_t physical               # bytes of frames and rings alive
    uint64_t born
    uint64_t now_ns                 # CLOCK_MONOTONIC as of the last look: when a turn begins, at a fan-out, every 32 sends
    uint64_t skew_ns                # tests move time on with it
    Subscription *lagging           # they fell behind during a fan-out and leave it before the next; see the hub's part
    Frame *(*render_gap)(Outboxes *all, Subscription *subscription) noexcept nogil   # a new frame that tells `missed`; set by the hub

cdef Frame *frame_new(Outboxes *all, size_t size) noexcept nogil            # refs = 1; NULL = no memory
cdef Frame *frame_message(Outboxes *all, uint8_t opcode, const uint8_t *payload, size_t size) noexcept nogil
cdef void frame_release(Outboxes *all, Frame *frame) noexcept nogil

cdef void outbox_init(Outbox *box, uint32_t slot) noexcept nogil
# Releases everything; counts what was queued as discarded. It has left its lane before.
cdef void outbox_free(Outboxes *all, Outbox *box) noexcept nogil
# Appends one slot and takes its own reference to `frame`. False = no memory.
cdef bint outbox_push(Outboxes *all, Outbox *box, Frame *frame, Subscription *subscription) noexcept nogil
# Whether `size` more bytes are within the bound (bytes + SLOT_BYTES a slot, and messages; gap notices not yet written are free).
cdef inline bint outbox_fits(const Outboxes *all, const Outbox *box, size_t size) noexcept nogil:
    cdef uint64_t slots = box.count - box.tombstones - box.gaps
    cdef uint64_t used = <uint64_t>box.bytes + slots * SLOT_BYTES
    if box.pong != NULL:
        used += box.pong.size + SLOT_BYTES
    return slots < all.max_messages and used + size + SLOT_BYTES <= all.max_bytes

# Bytes that wait, as the bound counts them.
cdef inline uint64_t outbox_used(const Outbox *box) noexcept nogil:
    return <uint64_t>box.bytes + <uint64_t>(box.count - box.tombstones - box.gaps) * SLOT_BYTES

cdef enum Verdict:
    VERDICT_PUSH = 0        # there is room now
    VERDICT_DROPPED = 1     # the arriving message was dropped and counted
    VERDICT_DISCONNECT = 2  # the connection has to go
    VERDICT_BEHIND = 3      # policy catch_up: the subscription reads on from the history; cursor unknown_cursor = from the arriving one
# The policy of a full queue on a blocked connection. O(1) amortised. No subscription: a message of our own, which may not be lost.
cdef Verdict outbox_make_room(Outboxes *all, Outbox *box, Subscription *subscription, size_t size) noexcept nogil
# Policy latest when a connection becomes blocked: at most one unsent message of each such subscription stays.
cdef void outbox_conflate(Outboxes *all, Outbox *box) noexcept nogil
# Drops all that is queued, except a partly written first frame; deliveries count as discarded.
cdef void outbox_discard(Outboxes *all, Outbox *box) noexcept nogil
# Tells a subscription that `missed` publications never came here; missed_unknown = nobody knows how many. Raw ones cannot be told.
cdef void outbox_gap(Outboxes *all, Outbox *box, Subscription *subscription, uint64_t missed) noexcept nogil
# Takes `size` written bytes off the front. Returns Written flags.
cdef int outbox_written(Outboxes *all, Outbox *box, size_t size) noexcept nogil
# Makes the front ready to be read: drops tombstones, renders a gap notice, moves the pong into the ring. False = nothing to write.
cdef bint outbox_front(Outboxes *all, Outbox *box) noexcept nogil
cdef Slot *outbox_slot(const Outbox *box, uint32_t place) noexcept nogil
# Turns the gap notice at `place` into a frame; False = there is none (a tombstone).
cdef bint outbox_render(Outboxes *all, Outbox *box, uint32_t place) noexcept nogil
cdef void outbox_set_pong(Outboxes *all, Outbox *box, Frame *frame) noexcept nogil   # takes over the reference

# A subscription is freed by whoever takes its last tie away: the connection (detach) or the ring (last slot).
cdef Subscription *subscription_new(Outbox *box) noexcept nogil
cdef void subscription_detach(Subscription *subscription) noexcept nogil
