"""Bounded send queues: what waits for one connection, what a full queue gives up.

The hub pushes shared frames, the writer takes bytes off the front, the reactor owns the outboxes. Nothing here writes to a
socket, reads a clock or holds a Python object. A slot of the ring is 16 bytes; the first two live in the outbox itself, so that
an idle connection, and one that gets a message at a time, allocates nothing.

A dropped delivery leaves a tombstone, or the gap notice of its subscription if that has none queued yet: so a notice stands
where the first loss was. Tombstones are squeezed out when they are the greater half, which keeps every policy O(1) amortised.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from broker.native._counters cimport (
    COUNTERS, G_FRAMES, G_QUEUED, G_SLOTS, H_PUBLISH_TO_WRITE_NS, N_DISCARDED, N_DROPPED_LATEST, N_DROPPED_NEWEST, N_DROPPED_OLDEST,
    N_PONGS_COALESCED, N_PUT_OFF, N_SENT_BYTES_RAW, N_SENT_RAW, N_WRITTEN, PATTERN_DROPS, of_pattern,
)
from broker.native._frames cimport frame_header
from broker.native._histogram cimport observe_ns

POLICIES = ("disconnect", "drop_oldest", "drop_newest", "latest", "catch_up")

cdef size_t FRAME_OVERHEAD = sizeof(Frame) - 1
cdef size_t MOST_FRAME_BYTES = <size_t>1 << 31     # Frame.size is 32 bits
cdef uint32_t SQUEEZE_FROM = 16     # tombstones; below it squeezing costs more than the 16 bytes each


# Frames.

cdef Frame *frame_new(Outboxes *all, size_t size) noexcept nogil:
    cdef Frame *frame
    if size > MOST_FRAME_BYTES:
        return NULL
    frame = <Frame *>malloc(FRAME_OVERHEAD + size + 1)      # freed by frame_release
    if frame == NULL:
        return NULL
    frame.refs = 1
    frame.size = <uint32_t>size
    frame.born = all.born
    frame.offset = 0
    frame.born_ns = all.now_ns
    frame.timed = 0
    all.born += 1
    all.physical += FRAME_OVERHEAD + size
    all.counters[G_FRAMES] += 1
    return frame


cdef Frame *frame_message(Outboxes *all, uint8_t opcode, const uint8_t *payload, size_t size) noexcept nogil:
    cdef uint8_t head[10]
    cdef size_t head_size = frame_header(head, opcode, size)
    cdef Frame *frame = frame_new(all, head_size + size)
    if frame != NULL:
        memcpy(frame.data, head, head_size)
        if size:
            memcpy(frame.data + head_size, payload, size)
    return frame


cdef void frame_release(Outboxes *all, Frame *frame) noexcept nogil:
    frame.refs -= 1
    if frame.refs == 0:
        all.physical -= FRAME_OVERHEAD + frame.size
        all.counters[G_FRAMES] -= 1
        free(frame)


# Subscriptions.

cdef Subscription *subscription_new(Outbox *box) noexcept nogil:
    cdef Subscription *subscription = <Subscription *>calloc(1, sizeof(Subscription))   # freed by _settle
    if subscription != NULL:
        subscription.outbox = box
    return subscription


cdef void _settle(Subscription *subscription) noexcept nogil:
    """Frees a subscription that neither its connection nor a slot names any more."""
    if subscription.detached and subscription.slots == 0:
        free(subscription)


cdef void subscription_detach(Subscription *subscription) noexcept nogil:
    subscription.detached = 1
    subscription.channel = NULL
    _settle(subscription)


# The ring.

cdef void outbox_init(Outbox *box, uint32_t slot) noexcept nogil:
    memset(box, 0, sizeof(Outbox))
    box.ring = box.inline_ring
    box.capacity = INLINE_SLOTS
    box.slot = slot


cdef Slot *outbox_slot(const Outbox *box, uint32_t place) noexcept nogil:
    return &box.ring[(box.head + place) & (box.capacity - 1)]


cdef inline bint _names(Slot *slot) noexcept nogil:
    """Whether the slot belongs to a subscription (a delivery or a gap notice), not to a reply, a tag or nobody."""
    return <size_t>slot.subscription >= TAGS


cdef bint _grow(Outboxes *all, Outbox *box) noexcept nogil:
    cdef uint32_t i, capacity = box.capacity * 8        # 2, 16, 128: a burst costs two allocations
    cdef Slot *ring
    if box.capacity >= 1u << 28:
        return False
    ring = <Slot *>malloc(capacity * sizeof(Slot))          # freed by _shrink or the next _grow
    if ring == NULL:
        return False
    for i in range(box.count):
        ring[i] = outbox_slot(box, i)[0]
    if box.capacity > INLINE_SLOTS:
        all.physical -= <uint64_t>box.capacity * sizeof(Slot)
        free(box.ring)
    all.physical += <uint64_t>capacity * sizeof(Slot)
    box.ring = ring
    box.head = 0
    box.capacity = capacity
    return True


cdef inline void _shrink(Outboxes *all, Outbox *box) noexcept nogil:
    """An empty outbox holds no ring of its own."""
    if box.capacity > INLINE_SLOTS:
        all.physical -= <uint64_t>box.capacity * sizeof(Slot)
        free(box.ring)
        box.ring = box.inline_ring
        box.capacity = INLINE_SLOTS
    box.head = 0


cdef bint outbox_push(Outboxes *all, Outbox *box, Frame *frame, Subscription *subscription) noexcept nogil:
    cdef Slot *slot
    if box.count == box.capacity and not _grow(all, box):
        return False
    slot = outbox_slot(box, box.count)
    slot.frame = frame
    slot.subscription = subscription
    if frame != NULL:
        frame.refs += 1
        box.bytes += frame.size
    if <size_t>subscription >= TAGS:
        subscription.slots += 1
        if frame != NULL:
            if subscription.live == 0:
                subscription.oldest = box.sequence + box.count
            subscription.live += 1
            all.counters[G_QUEUED] += 1
    box.count += 1
    all.counters[G_SLOTS] += 1
    return True


cdef void _pop(Outboxes *all, Outbox *box) noexcept nogil:
    box.head = (box.head + 1) & (box.capacity - 1)
    box.sequence += 1
    box.count -= 1
    all.counters[G_SLOTS] -= 1
    if box.count == 0:
        _shrink(all, box)


cdef void _release_slot(Outboxes *all, Outbox *box, Slot *slot) noexcept nogil:
    """Takes a frame out of the accounts of its outbox and subscription, and leaves the slot empty but still named."""
    box.bytes -= slot.frame.size
    if _names(slot):
        slot.subscription.live -= 1
        all.counters[G_QUEUED] -= 1
    frame_release(all, slot.frame)
    slot.frame = NULL


cdef void _unname(Slot *slot) noexcept nogil:
    cdef Subscription *subscription = slot.subscription
    slot.subscription = NULL
    subscription.slots -= 1
    _settle(subscription)


cdef void _squeeze(Outboxes *all, Outbox *box) noexcept nogil:
    """Removes tombstones; order stays, sequences change, so each subscription's `oldest` is set anew."""
    cdef uint32_t i, kept = 0
    cdef Slot *slot
    cdef Slot *to
    if box.tombstones < SQUEEZE_FROM or box.tombstones * 2 < box.count:
        return
    for i in range(box.count):
        slot = outbox_slot(box, i)
        if slot.frame == NULL and slot.subscription == NULL:
            continue
        to = outbox_slot(box, kept)
        to[0] = slot[0]
        if _names(to):
            to.subscription.oldest = box.sequence       # a lower bound; _drop_oldest walks on from it
        kept += 1
    all.counters[G_SLOTS] -= box.count - kept
    box.count = kept
    box.tombstones = 0
    box.lossy_from = box.sequence
    if kept == 0:
        _shrink(all, box)


# Policies.

cdef uint32_t _counter_of(uint8_t policy) noexcept nogil:
    if policy == POLICY_DROP_OLDEST:
        return N_DROPPED_OLDEST
    if policy == POLICY_LATEST:
        return N_DROPPED_LATEST
    return N_DROPPED_NEWEST


cdef void _count_drop(Outboxes *all, Subscription *subscription) noexcept nogil:
    all.counters[_counter_of(subscription.policy)] += 1
    of_pattern(all.counters, subscription.pattern)[PATTERN_DROPS] += 1


cdef void _miss(Outboxes *all, Subscription *subscription) noexcept nogil:
    _count_drop(all, subscription)
    _count_missed(subscription, 1)


cdef void _count_missed(Subscription *subscription, uint64_t missed) noexcept nogil:
    if subscription.missed == missed_unknown() or missed == missed_unknown():
        subscription.missed = missed_unknown()
    else:
        subscription.missed += missed


cdef void _drop(Outboxes *all, Outbox *box, Slot *slot) noexcept nogil:
    """Gives up a queued delivery. Its place becomes the gap notice, or a tombstone."""
    cdef Subscription *subscription = slot.subscription
    _release_slot(all, box, slot)
    _miss(all, subscription)
    if box.format == FORMAT_JSON and not subscription.gap_queued:
        subscription.gap_queued = 1
        box.gaps += 1
    else:
        _unname(slot)
        box.tombstones += 1


cdef uint32_t _oldest_place(Outbox *box, Subscription *subscription) noexcept nogil:
    """Before it stands no message of the subscription that may go: a frame that was begun may not."""
    cdef int32_t place = <int32_t>(subscription.oldest - box.sequence)
    return <uint32_t>max(place, 1 if box.head_offset else 0)


cdef bint _drop_oldest(Outboxes *all, Outbox *box, Subscription *subscription) noexcept nogil:
    """Gives up the oldest unsent delivery of one subscription; False = it has none that may go."""
    cdef uint32_t place = _oldest_place(box, subscription)
    cdef Slot *slot
    if subscription.live == 0:
        return False
    while place < box.count:
        slot = outbox_slot(box, place)
        if slot.subscription == subscription and slot.frame != NULL:
            subscription.oldest = box.sequence + place + 1
            _drop(all, box, slot)
            return True
        place += 1
    subscription.oldest = box.sequence + place      # what was begun may not go, and is not looked at again
    return False


cdef void outbox_gap(Outboxes *all, Outbox *box, Subscription *subscription, uint64_t missed) noexcept nogil:
    _count_missed(subscription, missed)
    if box.format == FORMAT_JSON and not subscription.gap_queued and outbox_push(all, box, NULL, subscription):
        subscription.gap_queued = 1
        box.gaps += 1


cdef Verdict _drop_arriving(Outboxes *all, Outbox *box, Subscription *subscription) noexcept nogil:
    _count_drop(all, subscription)
    outbox_gap(all, box, subscription, 1)
    return VERDICT_DROPPED


cdef void _forget(Outboxes *all, Outbox *box, Subscription *subscription) noexcept nogil:
    """Policy catch_up: takes back what is queued, to be read from the history. The walk is paid for by what was queued."""
    cdef uint32_t place = _oldest_place(box, subscription)
    cdef Slot *slot
    if not subscription.untold:
        subscription.untold = 1
        subscription.cursor = unknown_cursor()
        box.wants_room = 1
        if not subscription.behind:
            subscription.behind = 1
            subscription.next_lagging = all.lagging
            all.lagging = subscription
    while place < box.count and subscription.live:
        slot = outbox_slot(box, place)
        if slot.subscription == subscription and slot.frame != NULL:
            if subscription.cursor == unknown_cursor():
                subscription.cursor = slot.frame.offset - 1
            _release_slot(all, box, slot)
            _unname(slot)
            box.tombstones += 1
            all.counters[N_PUT_OFF] += 1
        place += 1
    subscription.oldest = box.sequence + place


cdef void _drop_lossy(Outboxes *all, Outbox *box, size_t size) noexcept nogil:
    """Room for a message that must not be lost: what lossy channels hold goes, oldest first, until it fits."""
    cdef uint32_t place = box.lossy_from - box.sequence
    cdef Slot *slot
    if <int32_t>place < (1 if box.head_offset else 0):
        place = 1 if box.head_offset else 0
    while place < box.count and not outbox_fits(all, box, size):
        slot = outbox_slot(box, place)
        if slot.frame != NULL and _names(slot) and slot.subscription.policy != POLICY_DISCONNECT:
            if slot.subscription.policy == POLICY_CATCH_UP and slot.subscription.channel != NULL:
                _forget(all, box, slot.subscription)
            else:
                _drop(all, box, slot)
        place += 1
    box.lossy_from = box.sequence + place


cdef Verdict outbox_make_room(Outboxes *all, Outbox *box, Subscription *subscription, size_t size) noexcept nogil:
    cdef uint8_t policy = POLICY_DISCONNECT if subscription == NULL else subscription.policy
    if policy == POLICY_CATCH_UP:
        _forget(all, box, subscription)
    elif policy == POLICY_DISCONNECT:
        _drop_lossy(all, box, size)
    elif policy == POLICY_DROP_OLDEST:
        while not outbox_fits(all, box, size) and _drop_oldest(all, box, subscription):
            pass
    elif policy == POLICY_LATEST:
        while _drop_oldest(all, box, subscription):
            pass
    _squeeze(all, box)
    if policy == POLICY_CATCH_UP:
        return VERDICT_BEHIND
    if outbox_fits(all, box, size):
        return VERDICT_PUSH
    return VERDICT_DISCONNECT if policy == POLICY_DISCONNECT else _drop_arriving(all, box, subscription)


cdef void outbox_conflate(Outboxes *all, Outbox *box) noexcept nogil:
    cdef uint32_t place = 1 if box.head_offset else 0
    cdef Subscription *begun = outbox_slot(box, 0).subscription if box.head_offset else NULL     # its first is sent, not waiting
    cdef Slot *slot
    while place < box.count:
        slot = outbox_slot(box, place)
        if slot.frame != NULL and _names(slot) and slot.subscription.policy == POLICY_LATEST:
            if slot.subscription.live > (2 if slot.subscription == begun else 1):
                _drop(all, box, slot)
        place += 1
    _squeeze(all, box)


# The front.

cdef void _drop_slot(Outboxes *all, Outbox *box, Slot *slot) noexcept nogil:
    """Empties a slot because its connection closes."""
    if slot.frame != NULL:
        if _names(slot):
            all.counters[N_DISCARDED] += 1
        _release_slot(all, box, slot)
    elif _names(slot):
        box.gaps -= 1
    if _names(slot):
        slot.subscription.gap_queued = 0
        _unname(slot)
    slot.subscription = NULL


cdef void outbox_discard(Outboxes *all, Outbox *box) noexcept nogil:
    cdef uint32_t place, kept = 1 if box.head_offset else 0
    for place in range(kept, box.count):
        _drop_slot(all, box, outbox_slot(box, place))
    all.counters[G_SLOTS] -= box.count - kept
    box.count = kept
    box.tombstones = 0
    if box.pong != NULL:
        frame_release(all, box.pong)
        box.pong = NULL
    if kept == 0:
        _shrink(all, box)


cdef void outbox_free(Outboxes *all, Outbox *box) noexcept nogil:
    box.head_offset = 0
    outbox_discard(all, box)


cdef int outbox_written(Outboxes *all, Outbox *box, size_t size) noexcept nogil:
    cdef int flags = 0
    cdef Slot *slot
    cdef size_t left
    cdef uint64_t written = 0, bytes = 0
    while box.count:
        slot = outbox_slot(box, 0)
        if slot.frame == NULL:
            if slot.subscription != NULL:
                break                                   # a gap notice not rendered yet: nothing behind it was written
            box.tombstones -= 1
            _pop(all, box)
            continue
        if size == 0:
            break
        left = slot.frame.size - box.head_offset
        if size < left:
            box.head_offset += <uint32_t>size
            break
        size -= left
        box.head_offset = 0
        if _names(slot):
            written += 1
            bytes += slot.frame.size
            if slot.frame.refs == 1 and slot.frame.timed:       # nobody else waits for it: its last write
                observe_ns(&all.counters[H_PUBLISH_TO_WRITE_NS], all.now_ns - slot.frame.born_ns)
            _release_slot(all, box, slot)
            _unname(slot)
        else:
            flags |= <int><size_t>slot.subscription     # TAG_PING and TAG_END are WROTE_PING and WROTE_END
            _release_slot(all, box, slot)
        _pop(all, box)
    all.counters[N_WRITTEN] += written
    all.counters[N_SENT_RAW + box.format] += written
    all.counters[N_SENT_BYTES_RAW + box.format] += bytes
    return flags


cdef bint outbox_front(Outboxes *all, Outbox *box) noexcept nogil:
    cdef Frame *pong
    if box.pong != NULL and not box.closed:
        pong = box.pong
        box.pong = NULL
        outbox_push(all, box, pong, NULL)
        frame_release(all, pong)
    while box.count:
        if outbox_slot(box, 0).frame != NULL or outbox_render(all, box, 0):
            return True
        box.tombstones -= 1
        _pop(all, box)
    return False


cdef bint outbox_render(Outboxes *all, Outbox *box, uint32_t place) noexcept nogil:
    cdef Slot *slot = outbox_slot(box, place)
    cdef Subscription *subscription = slot.subscription
    if subscription == NULL:
        return False
    subscription.gap_queued = 0
    box.gaps -= 1
    slot.frame = all.render_gap(all, subscription)
    if slot.frame == NULL:                              # no memory: `missed` stays and the next loss queues a notice again
        box.tombstones += 1
    else:
        subscription.missed = 0
        box.bytes += slot.frame.size
    _unname(slot)
    return slot.frame != NULL


cdef void outbox_set_pong(Outboxes *all, Outbox *box, Frame *frame) noexcept nogil:
    if box.pong != NULL:
        all.counters[N_PONGS_COALESCED] += 1
        frame_release(all, box.pong)
    box.pong = NULL
    if box.closed:
        frame_release(all, frame)
    else:
        box.pong = frame
