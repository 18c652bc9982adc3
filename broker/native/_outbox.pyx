"""Send queues without connections: what tests drive the queue, the hub and the writer through.

A Queue is an outbox that has joined channels of a hub. The hub's transport is the one below instead of the reactor's: its kernel
takes as many bytes as a test says. What the lifecycle does around a write (mark as blocked, conflate) is repeated here in as few
words; nothing else is. The broker never imports this module.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from broker.native._hub cimport Channel, Hub
from broker.native._lane cimport lane_leave, lane_take
from broker.native._queue cimport (
    Frame, LANE_BULK, LANE_CONTROL, LANE_SMALL, Outbox, Outboxes, Slot, Subscription, TAG_END, TAG_PING, VERDICT_PUSH, WROTE_END,
    WROTE_PING, frame_message, frame_release, outbox_conflate, outbox_discard, outbox_fits, outbox_free, outbox_front,
    outbox_init, outbox_make_room, outbox_push, outbox_render, outbox_set_pong, outbox_slot, outbox_written, subscription_detach,
    subscription_new,
)
from broker.native._writer cimport Writer, writer_flush, writer_free, writer_init

from broker.native._counters import NAMES, SIZE
from broker.native._queue import POLICIES

FORMAT_NAMES = ("raw", "json")
LANES = ("none", "control", "small", "bulk")
WROTE = ("all", "short", "some", "failed")


cdef struct Station:
    Outbox box                      # first: an Outbox pointer is a Station pointer
    Subscription *subscriptions     # OWNED list
    uint8_t *sink                   # OWNED: bytes taken that the test has not looked at
    size_t sunk
    int64_t room
    uint64_t flushes
    uint64_t pings
    uint8_t ended
    uint8_t slow


cdef struct Exchange:               # what the stations of one hub share; the owner of its transport
    Outboxes *all                   # BORROWED from hub
    size_t round_bytes
    uint64_t reliefs


cdef void _take(Outboxes *all, Station *station, size_t laid_out, size_t size) noexcept nogil:
    """Lays out frames of the front until they are `laid_out` bytes, of which the kernel takes `size`."""
    cdef Outbox *box = &station.box
    cdef size_t total = 0, left, offset = box.head_offset, took = 0
    cdef uint32_t place
    cdef Slot *slot
    cdef uint8_t *sink
    cdef int flags
    if not outbox_front(all, box):
        return
    for place in range(box.count):
        if total >= laid_out:
            break
        slot = outbox_slot(box, place)
        if slot.frame == NULL and not outbox_render(all, box, place):
            continue
        left = slot.frame.size - offset
        total += left
        if took < size:
            left = min(left, size - took)
            sink = <uint8_t *>realloc(station.sink, station.sunk + left)    # freed by taken
            if sink == NULL:
                return
            memcpy(sink + station.sunk, slot.frame.data + offset, left)
            station.sink = sink
            station.sunk += left
            took += left
        offset = 0
    flags = outbox_written(all, box, took)
    station.pings += (flags & WROTE_PING) != 0
    station.ended |= (flags & WROTE_END) != 0


cdef void _block(Outboxes *all, Outbox *box) noexcept nogil:
    box.blocked = 1
    lane_leave(all, box)
    outbox_conflate(all, box)


cdef void _flush_now(void *owner, Outbox *box) noexcept nogil:
    cdef Exchange *exchange = <Exchange *>owner
    cdef Station *station = <Station *>box
    cdef size_t before = station.sunk, laid_out = 0
    cdef uint32_t place
    station.flushes += 1
    if station.room < 0:
        box.closed = 1
        return
    if not outbox_front(exchange.all, box):
        return
    for place in range(box.count):
        if laid_out < exchange.round_bytes and (outbox_slot(box, place).frame != NULL or outbox_render(exchange.all, box, place)):
            laid_out += outbox_slot(box, place).frame.size
    laid_out -= box.head_offset
    _take(exchange.all, station, laid_out, min(laid_out, <size_t>station.room))
    station.room -= <int64_t>(station.sunk - before)
    if station.sunk - before < laid_out:
        _block(exchange.all, box)


cdef void _too_slow(void *owner, Outbox *box) noexcept nogil:
    (<Station *>box).slow = 1
    box.closed = 1


cdef void _relieve(void *owner) noexcept nogil:
    (<Exchange *>owner).reliefs += 1


@cython.no_gc_clear     # queues that a collected cycle holds still leave the hub in their __dealloc__
cdef class Queues:
    cdef readonly Hub hub
    cdef Outboxes *all              # BORROWED from hub
    cdef Writer writer
    cdef Exchange exchange
    cdef object table
    cdef uint32_t made              # queues, which are numbered from 0

    def __cinit__(self, uint32_t max_bytes, uint32_t max_messages, uint64_t memory_bytes=1 << 40, size_t round_bytes=65536):
        self.table = bytearray(8 * SIZE)
        self.hub = Hub(self.table, max_bytes, max_messages, memory_bytes)
        self.all = &self.hub.all
        self.exchange.all = self.all
        self.exchange.round_bytes = round_bytes
        if not writer_init(&self.writer, self.all):
            raise MemoryError
        self.hub.transport.owner = <void *>&self.exchange     # BORROWED: every Queue holds this, and nobody publishes without one
        self.hub.transport.flush_now = _flush_now
        self.hub.transport.too_slow = _too_slow
        self.hub.transport.relieve = _relieve

    def __dealloc__(self):
        writer_free(&self.writer)

    def counters(self):
        return {name: value for name, value in zip(NAMES, memoryview(self.table).cast("Q")) if not name.startswith("n_closed")}

    def marked(self):
        """Numbers of the queues that wait to be flushed, in the order that their lanes have; none waits then."""
        cdef Outbox *box
        numbers = []
        for lane in (LANE_CONTROL, LANE_SMALL, LANE_BULK):
            box = lane_take(self.all, lane)
            while box != NULL:
                numbers.append(box.slot)
                box = lane_take(self.all, lane)
        return numbers

    @property
    def physical(self):
        return self.all.physical

    @property
    def reliefs(self):
        return self.exchange.reliefs


@cython.no_gc_clear
cdef class Queue:
    cdef Queues queues
    cdef Station *station           # OWNED

    def __cinit__(self, Queues queues, str format, int64_t room=0):
        self.queues = queues
        self.station = <Station *>calloc(1, sizeof(Station))    # freed by __dealloc__
        if self.station == NULL:
            raise MemoryError
        outbox_init(&self.station.box, queues.made)
        queues.made += 1
        self.station.box.format = FORMAT_NAMES.index(format)
        self.station.room = room

    def __dealloc__(self):
        if self.station != NULL:
            self.close()
            free(self.station.sink)
            free(self.station)

    def subscribe(self, bytes name, str policy, bint receives=True):
        cdef Subscription *subscription = subscription_new(&self.station.box)
        if subscription == NULL:
            raise MemoryError
        self.queues.hub.join(self.queues.hub.channel(name, POLICIES.index(policy), 0, 0), &self.station.box, subscription, receives)
        subscription.next = self.station.subscriptions
        self.station.subscriptions = subscription

    def unsubscribe(self, bytes name):
        cdef Channel *channel = self.queues.hub.find(name)
        cdef Subscription **link = &self.station.subscriptions
        cdef Subscription *subscription
        while link[0] != NULL and link[0].channel != <void *>channel:
            link = &link[0].next
        subscription = link[0]
        if subscription == NULL:
            raise KeyError(name)
        link[0] = subscription.next
        self.queues.hub.leave(subscription)
        subscription_detach(subscription)

    def publish(self, bytes name, uint8_t kind, bytes payload):
        """To everyone but this queue."""
        return self.queues.hub.publish_except(name, kind, payload, b"", &self.station.box, 0, 0)

    cdef Frame *_frame(self, uint8_t opcode, bytes payload) except NULL:
        cdef Frame *frame = frame_message(self.queues.all, opcode, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload))
        if frame == NULL:
            raise MemoryError
        return frame

    cdef void _push(self, uint8_t opcode, bytes payload, size_t tag):
        cdef Frame *frame = self._frame(opcode, payload)
        outbox_push(self.queues.all, &self.station.box, frame, <Subscription *>tag)
        frame_release(self.queues.all, frame)

    def reply(self, bytes payload):
        """A message of the broker's own. False = there is no room."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(payload) + 10
        cdef Outbox *box = &self.station.box
        if box.closed or (not outbox_fits(self.queues.all, box, size) and outbox_make_room(self.queues.all, box, NULL, size) != VERDICT_PUSH):
            return False
        self._push(1, payload, 0)
        return True

    def ping(self, bytes payload):
        self._push(9, payload, TAG_PING)

    def pong(self, bytes payload):
        outbox_set_pong(self.queues.all, &self.station.box, self._frame(10, payload))

    def block(self):
        """As after a short write."""
        _block(self.queues.all, &self.station.box)

    def unblock(self):
        self.station.box.blocked = 0

    def write(self, size_t size, size_t laid_out=0):
        """Frames are laid out until they are `laid_out` (at least `size`) bytes; the kernel takes `size` of them, which are returned."""
        _take(self.queues.all, self.station, max(size, laid_out), size)
        return self.taken()

    def flush(self, int fd):
        """The writer's one send to a real socket, and what the lifecycle makes of it."""
        cdef int flags = 0
        wrote = WROTE[writer_flush(&self.queues.writer, &self.station.box, fd, &flags)]
        self.station.pings += (flags & WROTE_PING) != 0
        self.station.ended |= (flags & WROTE_END) != 0
        if wrote == "short":
            _block(self.queues.all, &self.station.box)
        elif wrote != "failed":
            self.station.box.blocked = 0
        return wrote

    def taken(self):
        """What the kernel took since the last time."""
        taken = PyBytes_FromStringAndSize(<char *>self.station.sink, <Py_ssize_t>self.station.sunk)
        free(self.station.sink)
        self.station.sink = NULL
        self.station.sunk = 0
        return taken

    def discard(self):
        outbox_discard(self.queues.all, &self.station.box)

    def end(self, bytes payload):
        """As a connection closes: nothing but a frame that was begun, and Close."""
        self._leave()
        self.discard()
        self.station.box.closed = 1
        self._push(8, payload, TAG_END)

    cdef void _leave(self):
        cdef Subscription *subscription
        while self.station.subscriptions != NULL:
            subscription = self.station.subscriptions
            self.station.subscriptions = subscription.next
            self.queues.hub.leave(subscription)
            subscription_detach(subscription)

    def close(self):
        """As a connection dies."""
        self._leave()
        self.station.box.closed = 1
        lane_leave(self.queues.all, &self.station.box)
        outbox_free(self.queues.all, &self.station.box)

    def queued(self):
        """Frames as they wait, a partly written one whole; None is a gap notice that is not written yet."""
        cdef Slot *slot
        cdef uint32_t place
        frames = []
        for place in range(self.station.box.count):
            slot = outbox_slot(&self.station.box, place)
            if slot.frame != NULL:
                frames.append(PyBytes_FromStringAndSize(<char *>slot.frame.data, <Py_ssize_t>slot.frame.size))
            elif slot.subscription != NULL:
                frames.append(None)
        return frames

    @property
    def room(self):
        return self.station.room

    @room.setter
    def room(self, int64_t room):
        self.station.room = room

    @property
    def queued_bytes(self):
        return self.station.box.bytes

    @property
    def slots(self):
        return self.station.box.count

    @property
    def tombstones(self):
        return self.station.box.tombstones

    @property
    def flushes(self):
        return self.station.flushes

    @property
    def blocked(self):
        return bool(self.station.box.blocked)

    @property
    def closed(self):
        return bool(self.station.box.closed)

    @property
    def too_slow(self):
        return bool(self.station.slow)

    @property
    def lane(self):
        return LANES[self.station.box.lane]

    @property
    def pings_written(self):
        return self.station.pings

    @property
    def end_written(self):
        return bool(self.station.ended)
