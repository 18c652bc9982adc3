"""Fan-out: one message to every subscription of a channel.

The node publishes through it, the reactor joins and leaves connections. A message is encoded once for each variant (format) that
is in use, and each outbox gets a reference. A full queue is flushed before its policy is asked, and the policy is asked only on
a blocked connection: acting before having tried to write would cut healthy readers of a busy publisher.

During a fan-out nothing leaves a channel and no Python runs; connections that have to go are marked and go later.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset

from broker.native._activity cimport activity_count, window_turn
from broker.native._counters cimport (
    COUNTERS, G_CHANNELS, G_SUBSCRIPTIONS, H_FANOUT_DELIVERIES, H_FANOUT_NS, N_DISCARDED, N_EVENTS, N_EVENTS_DROPPED, N_FRAMES_ENCODED,
    N_OFFERED, N_PUBLISHED, N_PUT_OFF, N_SEQUENCED, PATTERN_DELIVERIES, PATTERNS, of_pattern,
)
from broker.native._frames cimport frame_header
from broker.native._histogram cimport observe_count, observe_ns
from broker.native._json cimport base64_size, base64_write, json_string_size, json_string_write
from broker.native._lane cimport lane_mark
from broker.native._queue cimport (
    FORMAT_JSON, FORMAT_RAW, FORMATS, Frame, LANE_BULK, LANE_SMALL, Lane, Outbox, Outboxes, POLICY_LATEST, Subscription,
    VERDICT_BEHIND, VERDICT_DISCONNECT, VERDICT_DROPPED, VERDICT_PUSH, Verdict, frame_message, frame_new, frame_release,
    missed_unknown, outbox_fits, outbox_gap, outbox_make_room, outbox_push, unknown_cursor,
)


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *time)
    enum:
        CLOCK_MONOTONIC
        CLOCK_REALTIME


# The JSON envelope. Shapes: docs/protocol.md, events `message` and `gap`.

cdef inline uint8_t *_put(uint8_t *out, const char *text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


cdef uint8_t *_put_number(uint8_t *out, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int n = 0
    while True:
        digits[n] = 48 + value % 10
        n += 1
        value //= 10
        if value == 0:
            break
    while n:
        n -= 1
        out[0] = digits[n]
        out += 1
    return out


cdef uint64_t _clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef Frame *_sealed(Outboxes *all, const Message *message) noexcept nogil:
    """The JSON variant: {"type":"message","channel":...,"data"|"text"|"base64":...,"time":ms,...extra}."""
    cdef uint8_t *out
    cdef Frame *frame
    cdef size_t body = message.size, size
    if message.kind == KIND_TEXT:
        body = json_string_size(message.payload, message.size)
    elif message.kind == KIND_BINARY:
        body = base64_size(message.size) + 2
    size = 28 + json_string_size(message.channel.text, message.channel.text_size) + 10 + body + 8 + 20 + message.extra_size + 1    # an upper bound; cut below
    frame = frame_new(all, 10 + size)
    if frame == NULL:
        return NULL
    out = frame.data + 10
    out = _put(out, b'{"type":"message","channel":', 28)
    out = json_string_write(out, message.channel.text, message.channel.text_size)
    if message.kind == KIND_DATA:
        out = _put(out, b',"data":', 8)
        out = _put(out, <const char *>message.payload, message.size)
    elif message.kind == KIND_TEXT:
        out = _put(out, b',"text":', 8)
        out = json_string_write(out, message.payload, message.size)
    else:
        out = _put(out, b',"base64":"', 11)
        out = base64_write(out, message.payload, message.size)
        out = _put(out, b'"', 1)
    out = _put(out, b',"time":', 8)
    out = _put_number(out, message.time_ms if message.time_ms else _clock_ns(CLOCK_REALTIME) // 1000000)
    out = _put(out, <const char *>message.extra, message.extra_size)
    out = _put(out, b'}', 1)
    return _framed(all, frame, out)


cdef Frame *_framed(Outboxes *all, Frame *frame, uint8_t *end) noexcept nogil:
    """Puts the frame header before text that was written from data + 10 on, and sets the true size."""
    cdef uint8_t head[10]
    cdef size_t size = end - (frame.data + 10)
    cdef size_t head_size = frame_header(head, 1, size)
    if head_size < 10:
        memmove(frame.data + head_size, frame.data + 10, size)
    memcpy(frame.data, head, head_size)
    all.physical -= frame.size - <uint32_t>(head_size + size)
    frame.size = <uint32_t>(head_size + size)
    return frame


cdef Frame *_render_gap(Outboxes *all, Subscription *subscription) noexcept nogil:
    """{"type":"gap","channel":...,"missed":n}; nothing once the subscription is gone: the client has unsubscribed."""
    cdef Channel *channel = <Channel *>subscription.channel
    cdef Frame *frame
    cdef uint8_t *out
    if channel == NULL:
        return NULL
    frame = frame_new(all, 10 + 24 + json_string_size(channel.text, channel.text_size) + 10 + 20 + 1)
    if frame == NULL:
        return NULL
    out = _put(frame.data + 10, b'{"type":"gap","channel":', 24)
    out = json_string_write(out, channel.text, channel.text_size)
    out = _put(out, b',"missed":', 10)
    if subscription.missed == missed_unknown():
        out = _put(out, b'null', 4)
    else:
        out = _put_number(out, subscription.missed)
    out = _put(out, b'}', 1)
    return _framed(all, frame, out)


cdef Frame *_encode(Outboxes *all, uint8_t format, const Message *message) noexcept nogil:
    cdef Frame *frame
    all.counters[N_FRAMES_ENCODED] += 1
    if format == FORMAT_JSON:
        frame = _sealed(all, message)
    else:
        frame = frame_message(all, 2 if message.kind == KIND_BINARY else 1, message.payload, message.size)
    if frame != NULL:
        frame.offset = message.offset
    return frame


@cython.no_gc_clear     # __dealloc__ reads `channels`, which a collected cycle (worker, gateway, reactor) would have cleared before
cdef class Hub:
    """Channels of one worker. `counters` is a writable buffer of COUNTERS u64 and outlives the hub.

    max_bytes, max_messages bound each send queue; memory_bytes bounds frames, slots and partial input of the whole worker.
    """

    def __cinit__(self, counters, uint32_t max_bytes, uint32_t max_messages, uint64_t memory_bytes):
        self.channels = {}                          # before anything raises: __dealloc__ reads it
        cdef uint64_t[::1] table = memoryview(counters).cast("B").cast("Q")
        if table.shape[0] < COUNTERS:
            raise ValueError(f"counters: {table.shape[0]} numbers, {COUNTERS} are needed")
        self.counters_owner = table
        memset(&self.all, 0, sizeof(self.all))
        memset(&self.transport, 0, sizeof(self.transport))
        memset(self.replayed, 0, sizeof(self.replayed))
        self.all.counters = &table[0]
        self.all.max_bytes = max_bytes
        self.all.max_messages = max_messages
        self.all.render_gap = _render_gap
        self.memory_bytes = memory_bytes

    def __dealloc__(self):
        cdef Channel *channel
        self.forget_replayed()
        for address in self.channels.values():      # only if connections outlived the hub, which the reactor prevents
            channel = <Channel *><size_t>address
            free(channel.entries)
            Py_DECREF(<object>channel.name)
            free(channel)

    cdef Channel *find(self, bytes name):
        address = self.channels.get(name)
        return NULL if address is None else <Channel *><size_t>address

    cdef Channel *channel(self, bytes name, uint8_t policy, uint8_t payload, uint8_t pattern) except NULL:
        """The channel, made if it does not exist; it goes with its last tie."""
        cdef Channel *channel = self.find(name)
        if channel != NULL:
            return channel
        if pattern >= PATTERNS:
            raise ValueError(f"pattern {pattern}: there are {PATTERNS} places")
        channel = <Channel *>calloc(1, sizeof(Channel))     # freed by untie
        if channel == NULL:
            raise MemoryError
        channel.name = <PyObject *>name
        Py_INCREF(name)                                     # released by untie
        channel.text = <const uint8_t *>PyBytes_AS_STRING(name)
        channel.text_size = <uint32_t>PyBytes_GET_SIZE(name)
        channel.policy = policy
        channel.payload = payload
        channel.pattern = pattern
        self.channels[name] = <size_t>channel
        self.all.counters[G_CHANNELS] += 1
        return channel

    cdef void untie(self, Channel *channel):
        if channel.ties:
            return
        name = <object>channel.name
        del self.channels[name]
        Py_DECREF(name)
        free(channel.entries)
        free(channel)
        self.all.counters[G_CHANNELS] -= 1

    cdef int join(self, Channel *channel, Outbox *box, Subscription *subscription, bint receives) except -1:
        subscription.channel = channel
        subscription.policy = channel.policy
        subscription.pattern = channel.pattern
        if receives:
            self.enter(channel, subscription)
        channel.ties += 1
        self.all.counters[G_SUBSCRIPTIONS] += 1
        return 0

    cdef int enter(self, Channel *channel, Subscription *subscription) except -1:
        """Into the fan-out. A subscription that was behind is live from here on."""
        cdef uint32_t capacity
        cdef Entry *entries
        if channel.count == channel.capacity:
            capacity = channel.capacity * 2 if channel.capacity else 1
            entries = <Entry *>realloc(channel.entries, capacity * sizeof(Entry))   # freed by untie
            if entries == NULL:
                raise MemoryError
            channel.entries = entries
            channel.capacity = capacity
        channel.entries[channel.count].outbox = subscription.outbox
        channel.entries[channel.count].subscription = subscription
        subscription.index = channel.count
        channel.count += 1
        subscription.receives = 1
        if subscription.behind:
            subscription.behind = 0
            channel.behind -= 1
        return 0

    cdef void fall_behind(self, Subscription *subscription) noexcept nogil:
        """It has joined without receiving, and will be fed from the history."""
        subscription.behind = 1
        (<Channel *>subscription.channel).behind += 1

    cdef void settle_lagging(self) noexcept nogil:
        """Takes those out of their fan-outs that fell behind. Never inside a fan-out."""
        cdef Subscription *subscription
        while self.all.lagging != NULL:
            subscription = self.all.lagging
            self.all.lagging = subscription.next_lagging
            self._withdraw(subscription)
            self.fall_behind(subscription)

    cdef void _withdraw(self, Subscription *subscription) noexcept nogil:
        cdef Channel *channel = <Channel *>subscription.channel
        subscription.receives = 0
        channel.count -= 1
        channel.entries[subscription.index] = channel.entries[channel.count]
        channel.entries[subscription.index].subscription.index = subscription.index

    cdef void leave(self, Subscription *subscription):
        """Takes a subscription out of its channel, which goes if that was its last. Never during a fan-out."""
        cdef Channel *channel = <Channel *>subscription.channel
        cdef Entry *entries
        self.settle_lagging()       # the list may name it
        if subscription.receives:
            self._withdraw(subscription)
            if channel.capacity > 64 and channel.count * 4 < channel.capacity:
                entries = <Entry *>realloc(channel.entries, (channel.capacity // 2) * sizeof(Entry))
                if entries != NULL:
                    channel.entries = entries
                    channel.capacity //= 2
        elif subscription.behind:
            channel.behind -= 1
        channel.ties -= 1
        self.all.counters[G_SUBSCRIPTIONS] -= 1
        self.untie(channel)

    cdef Verdict _admit(self, Outbox *box, Subscription *subscription, size_t size) noexcept nogil:
        """A queue that is full, or that conflates: flush it until it is blocked, only then ask its policy.

        One write may not be all that the kernel takes, and what is larger than a whole queue goes to a reader that keeps up.
        """
        while not box.blocked and self.transport.flush_now != NULL:
            self.transport.flush_now(self.transport.owner, box)
            if box.closed:
                return VERDICT_DROPPED
            if not box.blocked and (box.count == 0 or outbox_fits(&self.all, box, size)):
                return VERDICT_PUSH
        return outbox_make_room(&self.all, box, subscription, size)

    cdef void _offer(self, Entry *entry, Frame *frame, Lane lane) noexcept nogil:
        cdef Outbox *box = entry.outbox
        cdef Subscription *subscription = entry.subscription
        cdef Verdict verdict = VERDICT_PUSH
        if not outbox_fits(&self.all, box, frame.size) or (box.blocked and subscription.policy == POLICY_LATEST and subscription.live):
            verdict = self._admit(box, subscription, frame.size)
            if box.closed:
                self.all.counters[N_DISCARDED] += 1
                return
        if verdict == VERDICT_PUSH and not outbox_push(&self.all, box, frame, subscription):
            verdict = VERDICT_DISCONNECT
        if verdict == VERDICT_DISCONNECT:
            self._give_up(box)
        elif verdict == VERDICT_BEHIND:
            self.all.counters[N_PUT_OFF] += 1
            if subscription.cursor == unknown_cursor():
                subscription.cursor = frame.offset - 1
        elif not box.blocked and box.lane == 0:
            lane_mark(&self.all, box, lane)

    cdef void _give_up(self, Outbox *box) noexcept nogil:
        """A delivery that may not be lost and cannot be queued, be it for want of memory: the connection goes, never a silent hole."""
        self.all.counters[N_DISCARDED] += 1
        if self.transport.too_slow != NULL:
            self.transport.too_slow(self.transport.owner, box)

    cdef int64_t deliver(self, Message *message, Outbox *except_box) noexcept nogil:
        """Offers a message to every subscription of its channel but one; returns how many those were."""
        cdef Channel *channel = message.channel
        cdef Frame *variants[FORMATS]
        cdef Frame *frame
        cdef uint32_t i, place, count
        cdef int64_t offers = 0
        cdef Entry *entry
        cdef Lane lane
        cdef uint64_t began_ns
        if self.all.lagging != NULL:
            self.settle_lagging()
        count = channel.count
        # Twice a fan-out, some 30 ns each: what a message's frames are born at, and how long this took.
        began_ns = self.all.now_ns = _clock_ns(CLOCK_MONOTONIC) + self.all.skew_ns
        lane = LANE_BULK if count > BULK_FROM else LANE_SMALL
        variants[FORMAT_RAW] = variants[FORMAT_JSON] = NULL
        place = channel.start if channel.start < count else 0
        channel.start = place + 1
        for i in range(count):
            entry = &channel.entries[place]
            place += 1
            if place == count:
                place = 0
            if entry.outbox.closed or entry.outbox == except_box:
                continue
            frame = variants[entry.outbox.format]
            if frame == NULL:
                frame = variants[entry.outbox.format] = _encode(&self.all, entry.outbox.format, message)
                if frame != NULL:
                    frame.timed = 1
            offers += 1
            if frame == NULL:
                self._give_up(entry.outbox)
            else:
                self._offer(entry, frame, lane)
        self.all.counters[N_OFFERED] += <uint64_t>offers
        window_turn(&self.window, began_ns)
        activity_count(&channel.recent, self.window.number, <uint64_t>offers)
        of_pattern(self.all.counters, channel.pattern)[PATTERN_DELIVERIES] += <uint64_t>offers
        observe_count(&self.all.counters[H_FANOUT_DELIVERIES], <uint64_t>offers)
        self.all.now_ns = _clock_ns(CLOCK_MONOTONIC) + self.all.skew_ns
        observe_ns(&self.all.counters[H_FANOUT_NS], self.all.now_ns - began_ns)
        for i in range(<uint32_t>FORMATS):
            if variants[i] != NULL:
                frame_release(&self.all, variants[i])
        if self.all.physical > self.memory_bytes and self.transport.relieve != NULL:
            self.transport.relieve(self.transport.owner)
        return offers

    def publish(self, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None=b""):
        """Queues a validated, sequenced payload for every subscription of the channel here; returns their number.

        Nothing is written before the next turn: whoever is outside of one calls the reactor's publish, which asks for a turn.
        `extra` is more members of the JSON envelope, each with its leading comma.
        """
        self.count_published()
        return self.publish_except(name, kind, payload, extra, NULL, 0, 0)

    cdef void count_published(self) noexcept nogil:
        """A message was accepted and sequenced on this worker; one that came over a link was counted where it was published."""
        self.all.counters[N_PUBLISHED] += 1
        self.all.counters[N_SEQUENCED] += 1

    cdef int64_t publish_except(self, bytes name, uint8_t kind, bytes payload, bytes extra, Outbox *except_box, uint64_t offset, uint64_t time_ms) except -1:
        cdef Message message
        cdef int64_t offers = 0
        message.channel = self.find(name)
        if message.channel == NULL:
            return 0
        message.payload = <const uint8_t *>PyBytes_AS_STRING(payload)
        message.size = <size_t>PyBytes_GET_SIZE(payload)
        message.extra = <const uint8_t *>PyBytes_AS_STRING(extra)
        message.extra_size = <size_t>PyBytes_GET_SIZE(extra)
        message.kind = kind
        message.offset = offset
        message.time_ms = time_ms
        offers = self.deliver(&message, except_box)
        return offers

    def tell(self, bytes name not None, bytes payload not None):
        """Queues an event of our own for every JSON subscription of the channel, one frame for all; returns how many took it.

        It is no message: not in the ledger, and no policy acts for it or on it. Where a blocked connection has no room for it,
        a gap notice stands in its place: of no messages, unless some are lost as well. So an event never cuts anybody off.
        """
        cdef Channel *channel = self.find(name)
        cdef Frame *frame
        cdef int64_t told
        if channel == NULL:
            return 0
        frame = frame_message(&self.all, 1, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload))
        if frame == NULL:
            raise MemoryError
        told = self._tell(channel, frame)
        frame_release(&self.all, frame)
        if self.all.physical > self.memory_bytes and self.transport.relieve != NULL:
            self.transport.relieve(self.transport.owner)
        return told

    cdef int64_t _tell(self, Channel *channel, Frame *frame) noexcept nogil:
        cdef uint32_t i
        cdef int64_t told = 0
        cdef Outbox *box
        cdef bint fits
        cdef Lane lane = LANE_BULK if channel.count > BULK_FROM else LANE_SMALL
        for i in range(channel.count):
            box = channel.entries[i].outbox
            if box.closed or box.format != FORMAT_JSON:
                continue
            fits = outbox_fits(&self.all, box, frame.size)
            while not fits and not box.blocked and not box.closed and self.transport.flush_now != NULL:
                self.transport.flush_now(self.transport.owner, box)
                fits = not box.blocked and (box.count == 0 or outbox_fits(&self.all, box, frame.size))
            if box.closed:
                continue
            if fits and outbox_push(&self.all, box, frame, NULL):
                told += 1
            elif fits:                  # no memory for a slot, so none for a notice either: never a silent hole
                if self.transport.too_slow != NULL:
                    self.transport.too_slow(self.transport.owner, box)
                continue
            else:
                self.all.counters[N_EVENTS_DROPPED] += 1
                outbox_gap(&self.all, box, channel.entries[i].subscription, 0)
            if not box.blocked:
                lane_mark(&self.all, box, lane)
        self.all.counters[N_EVENTS] += <uint64_t>told
        return told

    def subscribers(self, bytes name):
        """Receiving subscriptions of a channel on this worker, those that are behind too."""
        cdef Channel *channel = self.find(name)
        return 0 if channel == NULL else channel.count + channel.behind

    cdef Frame *replay_frame(self, uint8_t format, Message *message) noexcept nogil:
        """A kept message, encoded once for all who replay it before `forget_replayed`. BORROWED until then; NULL = no memory."""
        cdef Replayed *place = &self.replayed[(message.offset * FORMATS + format) % REPLAYED]
        if place.frame != NULL:
            if place.channel == message.channel and place.offset == message.offset and place.format == format:
                return place.frame
            frame_release(&self.all, place.frame)
        place.frame = _encode(&self.all, format, message)
        place.channel = message.channel
        place.offset = message.offset
        place.format = format
        self.has_replayed = True
        return place.frame

    cdef void forget_replayed(self) noexcept nogil:
        cdef uint32_t i
        if not self.has_replayed:
            return
        self.has_replayed = False
        for i in range(<uint32_t>REPLAYED):
            if self.replayed[i].frame != NULL:
                frame_release(&self.all, self.replayed[i].frame)
                self.replayed[i].frame = NULL

    def names(self):
        """Names of the channels that have a subscription here."""
        return list(self.channels)

    @property
    def memory(self):
        """Bytes of frames and rings alive."""
        return self.all.physical
