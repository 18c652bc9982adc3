"""Everything that is written to connections: replies, lanes, flush slices, and who has to go because of it.

First of six layers of the reactor (output, lifecycle, intake, verbs, replay, reactor). Python is never called from here, and nothing is freed: a
connection whose fate a write decides, or whose queue is full in the middle of a fan-out, is doomed, and settled by the lifecycle
when the fan-out or flush is over. Here too: the clock and the memory bound of the worker.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from libc.stdlib cimport calloc, free

from broker.native._connection import CAUSES
from broker.native._connection cimport (
    CAUSE_MEMORY, CAUSE_NONE, CAUSE_PEER_GONE, CAUSE_TOO_SLOW, Connection, DEAD, connection_deadline, connection_id,
    table_free,
)
from broker.native._counters cimport G_BLOCKED, G_OLDEST_NS, N_FLUSHES, N_MEMORY_EVICTIONS, N_WRITES
from broker.native._frames cimport frames_held
from broker.native._hub cimport Hub, Transport
from broker.native._poller cimport POLL_OUT, WATCH_CHANGE, poller_close, poller_open, poller_watch
from broker.native._lane cimport lane_leave, lane_mark, lane_take
from broker.native._queue cimport (
    FORMAT_JSON, FORMAT_RAW, Frame, LANE_BULK, LANE_CONTROL, LANE_SMALL, Lane, Outbox, VERDICT_PUSH, WROTE_END, WROTE_PING,
    frame_message, frame_new, frame_release, outbox_conflate, outbox_discard, outbox_fits, outbox_make_room, outbox_push,
    outbox_slot, outbox_used,
)
from broker.native._wheel cimport Wheel, wheel_init, wheel_set
from broker.native._writer cimport WROTE_FAILED, WROTE_SHORT, WROTE_SOME, Wrote, writer_flush, writer_free, writer_init


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *time)
    enum:
        CLOCK_MONOTONIC

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags)

cdef uint64_t TICK_NS = 50000000            # 50 ms; _wheel.pyx
cdef uint64_t SLICE_NS = 2000000            # a flush runs this long, then the loop polls (loop lag p99 199 -> 14 ms, measured)
# What a replay lets wait for one connection: as much as the kernel takes of it (TCP_NOTSENT_LOWAT), so that a reader that
# keeps up is never idle, and a crowd of them costs 64 KiB each instead of a queue.
cdef uint32_t LOW_WATER_BYTES = 65536
cdef int CLOCK_EVERY = 32                   # sends between looks at the clock
cdef uint64_t OF_EVERYBODY = <uint64_t>-1    # Frame.born of what is made once for all: it tells nothing of how long anything waits
cdef uint32_t AGED_PLACES = 4096            # looked at in one tick: 0.1 ms, and 2.5 s for 200 000 connections
TICKS_PER_SECOND = 20


cdef void _flush_now(void *owner, Outbox *box) noexcept nogil:
    (<Output>owner).flush_connection(<Connection *>box)


cdef void _too_slow(void *owner, Outbox *box) noexcept nogil:
    (<Output>owner).doom(<Connection *>box, CAUSE_TOO_SLOW)


cdef void _relieve(void *owner) noexcept nogil:
    (<Output>owner).relieve()


cdef class Output:
    def __cinit__(self, Hub hub, handler, closes, call_soon, *, double handshake_seconds, double message_seconds, double ping_seconds,
                  double ping_jitter, double pong_seconds, double write_seconds, double close_seconds, double linger_seconds, **_):
        cdef bytes json_ping = b'\x89\x00\x81\x0f{"type":"ping"}'
        self.poller = -1
        self.hub = hub
        # A second reference that the collector does not know of: a worker that is collected as a cycle, without destroy,
        # would otherwise lose the hub (and its counters) before __dealloc__ releases the frames into it.
        Py_INCREF(hub)
        self.hub_held = <PyObject *>hub
        self.all = &hub.all
        self.handler = handler
        self.closes = list(closes)
        if len(self.closes) < len(CAUSES):
            raise ValueError(f"{len(self.closes)} close payloads for {len(CAUSES)} causes")
        self.low_water = min(<uint64_t>LOW_WATER_BYTES, <uint64_t>(hub.all.max_bytes // 2))
        self.timing.handshake = _ticks(handshake_seconds)
        self.timing.message = _ticks(message_seconds)
        self.timing.ping = _ticks(ping_seconds)
        self.timing.ping_jitter = <uint32_t>(self.timing.ping * ping_jitter)
        self.timing.pong = _ticks(pong_seconds)
        self.timing.write = _ticks(write_seconds)
        self.timing.close = _ticks(close_seconds)
        self.timing.linger = _ticks(linger_seconds)
        self.started_ns = self.all.now_ns = self.now_ns()
        self.tick = 1
        getrandom(&self.random, sizeof(self.random), 0)
        self.random |= 1
        self.wheel = <Wheel *>calloc(1, sizeof(Wheel))                  # freed by __dealloc__
        if self.wheel == NULL or not writer_init(&self.writer, self.all):
            raise MemoryError
        wheel_init(self.wheel, self.tick)
        self.poller = poller_open()
        if self.poller < 0:
            raise OSError(-self.poller, "epoll_create1")
        self.ping_frames[FORMAT_RAW] = frame_message(self.all, 9, NULL, 0)
        self.ping_frames[FORMAT_JSON] = frame_new(self.all, len(json_ping))     # two frames in one: they ride in one write
        self.pong_text = frame_message(self.all, 1, b"pong", 4)
        if self.ping_frames[FORMAT_RAW] == NULL or self.ping_frames[FORMAT_JSON] == NULL or self.pong_text == NULL:
            raise MemoryError
        for i in range(len(json_ping)):
            self.ping_frames[FORMAT_JSON].data[i] = json_ping[i]
        self.ping_frames[FORMAT_RAW].born = self.ping_frames[FORMAT_JSON].born = self.pong_text.born = OF_EVERYBODY
        hub.transport.owner = <void *>self      # BORROWED: the reactor holds the hub and clears this in destroy
        hub.transport.flush_now = _flush_now
        hub.transport.too_slow = _too_slow
        hub.transport.relieve = _relieve

    def __dealloc__(self):
        self._release()
        if self.hub_held != NULL:
            if (<Hub>self.hub_held).transport.owner == <void *>self:
                memset(&(<Hub>self.hub_held).transport, 0, sizeof(Transport))     # a hub that outlives us only queues
            Py_DECREF(<object>self.hub_held)

    cdef void _release(self):
        """Frees what is not a connection; the reactor's destroy has killed those."""
        cdef int i
        if self.wheel == NULL:
            return
        free(self.wheel)
        self.wheel = NULL
        for i in range(2):
            if self.ping_frames[i] != NULL:
                frame_release(self.all, self.ping_frames[i])
                self.ping_frames[i] = NULL
        if self.pong_text != NULL:
            frame_release(self.all, self.pong_text)
            self.pong_text = NULL
        writer_free(&self.writer)
        table_free(&self.table)
        if self.poller >= 0:
            poller_close(self.poller)
            self.poller = -1

    # Time.

    cdef uint64_t now_ns(self) noexcept nogil:
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec + self.all.skew_ns

    cdef void tell_time(self) noexcept nogil:
        self.all.now_ns = self.now_ns()
        self.tick = <uint32_t>((self.all.now_ns - self.started_ns) // TICK_NS) + 1

    cdef uint32_t jittered(self, uint32_t ticks, uint32_t jitter) noexcept nogil:
        self.random ^= self.random << 13        # xorshift64: spreads pings, decides nothing
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return ticks - jitter + <uint32_t>(self.random % (2 * jitter + 1))

    cdef void arm(self, Connection *connection) noexcept nogil:
        """Makes sure that the timer fires no later than the nearest deadline."""
        cdef uint32_t tick = connection_deadline(connection)
        if tick and (connection.timer.tick == 0 or <int32_t>(tick - connection.timer.tick) < 0):
            wheel_set(self.wheel, &connection.timer, tick)

    # Output.

    cdef void watch(self, Connection *connection, int interest) noexcept nogil:
        if connection.watched != interest:
            connection.watched = <uint8_t>interest
            poller_watch(self.poller, WATCH_CHANGE, connection.fd, interest, connection_id(connection))

    cdef void mark(self, Connection *connection, Lane lane) noexcept nogil:
        if not connection.box.blocked and connection.state != DEAD:
            lane_mark(self.all, &connection.box, lane)

    cdef bint reply(self, Connection *connection, uint8_t opcode, const uint8_t *payload, size_t size) noexcept nogil:
        """Queues a frame of our own (answer, event). It may not be lost: a connection that cannot take it is too slow."""
        cdef Frame *frame
        cdef bint queued
        if connection.box.closed:
            return False
        if not outbox_fits(self.all, &connection.box, size + 10):
            while not connection.box.blocked and not connection.box.closed and connection.box.count:
                self.flush_connection(connection)
            if connection.box.closed or (connection.box.blocked and outbox_make_room(self.all, &connection.box, NULL, size + 10) != VERDICT_PUSH):
                self.doom(connection, CAUSE_TOO_SLOW)
                return False
        frame = frame_message(self.all, opcode, payload, size)
        if frame == NULL:
            self.doom(connection, CAUSE_MEMORY)
            return False
        queued = outbox_push(self.all, &connection.box, frame, NULL)
        frame_release(self.all, frame)
        if not queued:
            self.doom(connection, CAUSE_MEMORY)
            return False
        self.mark(connection, LANE_CONTROL)
        return True

    cdef void flush_connection(self, Connection *connection) noexcept nogil:
        """One write. Never kills: who is gone is doomed, who is done is doomed too, with `end_written` set."""
        cdef Outbox *box = &connection.box
        cdef int flags = 0
        cdef uint64_t writes = self.all.counters[N_WRITES]
        cdef Wrote wrote = writer_flush(&self.writer, box, connection.fd, &flags)
        if box.wants_room:
            self.check_room(connection)
        if flags & WROTE_PING:
            connection.ping_queued = 0
            connection.pong_tick = self.tick + self.timing.pong
            self.arm(connection)
        if flags & WROTE_END:
            connection.end_written = 1
            self.doom(connection, CAUSE_NONE)
        if wrote == WROTE_SHORT:
            if not box.blocked:
                box.blocked = 1
                self.all.counters[G_BLOCKED] += 1
                lane_leave(self.all, box)
                self.watch(connection, connection.watched | POLL_OUT)
                outbox_conflate(self.all, box)
            if connection.write_tick == 0 or self.all.counters[N_WRITES] != writes:
                connection.write_tick = self.tick + self.timing.write       # progress, or the first time
                self.arm(connection)
            return
        if wrote == WROTE_FAILED:
            self.doom(connection, CAUSE_PEER_GONE)
            return
        if box.blocked:
            box.blocked = 0
            connection.write_tick = 0
            self.all.counters[G_BLOCKED] -= 1
            self.watch(connection, connection.watched & ~POLL_OUT)
        if wrote == WROTE_SOME:
            lane_mark(self.all, box, LANE_BULK)

    cdef void check_room(self, Connection *connection) noexcept nogil:
        """Whoever replays to it is told at the end of the turn, when half of what may wait for it is written, or it has ended."""
        if not connection.hungry and (connection.state == DEAD or outbox_used(&connection.box) * 2 <= self.low_water):
            connection.hungry = 1
            connection.next_hungry = self.hungry
            self.hungry = connection

    cdef bint lanes_empty(self) noexcept nogil:
        return self.all.lane_head[<int>LANE_CONTROL] == NULL and self.all.lane_head[<int>LANE_SMALL] == NULL and self.all.lane_head[<int>LANE_BULK] == NULL

    cdef void flush_slice(self):
        """Writes to marked connections for at most SLICE_NS: every second one of the control lane, else small and bulk in turn."""
        cdef uint64_t until = 0
        cdef int sends = 0
        cdef Outbox *box
        if self.lanes_empty():
            return
        self.all.now_ns = self.now_ns()
        until = self.all.now_ns + SLICE_NS
        self.all.counters[N_FLUSHES] += 1
        while True:
            box = NULL if sends & 1 else lane_take(self.all, LANE_CONTROL)      # a flood of pings must not hold up messages
            if box == NULL:
                self.small_next = not self.small_next
                box = lane_take(self.all, LANE_SMALL if self.small_next else LANE_BULK)
            if box == NULL:
                box = lane_take(self.all, LANE_BULK if self.small_next else LANE_SMALL)
            if box == NULL:
                box = lane_take(self.all, LANE_CONTROL)
            if box == NULL:
                return
            self.flush_connection(<Connection *>box)
            sends += 1
            if sends % CLOCK_EVERY == 0:
                self.all.now_ns = self.now_ns()
                if self.all.now_ns >= until:
                    return

    cdef void look_at_ages(self) noexcept nogil:
        """Once a tick: how old the oldest frame is that a blocked connection waits to be rid of. Some places of the table at a time,
        as a hundred thousand at once would hold the turn; the gauge is set when all have been looked at.
        """
        cdef uint32_t until = min(self.aged_to + AGED_PLACES, self.table.capacity)
        cdef Connection *connection
        cdef Frame *frame
        if self.all.counters[G_BLOCKED] == 0:
            self.all.counters[G_OLDEST_NS] = self.oldest_ns = self.aged_to = 0
            return
        self.all.now_ns = self.now_ns()
        while self.aged_to < until:
            connection = self.table.places[self.aged_to].connection
            self.aged_to += 1
            if connection != NULL and connection.box.blocked and connection.state != DEAD:
                frame = oldest_frame(&connection.box)
                if frame != NULL and self.all.now_ns - frame.born_ns > self.oldest_ns:
                    self.oldest_ns = self.all.now_ns - frame.born_ns
        if self.aged_to == self.table.capacity:
            self.all.counters[G_OLDEST_NS] = self.oldest_ns
            self.oldest_ns = self.aged_to = 0

    # Ends.

    cdef void doom(self, Connection *connection, uint8_t cause) noexcept nogil:
        """Marks a connection whose fate is decided after the fan-out or flush that is running; see settle."""
        if connection.state == DEAD:
            return
        if cause != CAUSE_NONE:
            connection.box.closed = 1
            if connection.cause == CAUSE_NONE:
                connection.cause = cause
            if cause == CAUSE_PEER_GONE:
                connection.doomed |= 2
        if not connection.doomed & 1:
            connection.doomed |= 1
            connection.next_doomed = self.doomed
            self.doomed = connection

    cdef void relieve(self) noexcept nogil:
        """Over the worker's memory: closes the blocked connections that hold the oldest frames until a tenth is free again.

        Takes a sixteenth of the age range at a time, so that a crowd of stalled readers costs a few scans, not one each. When no
        blocked connection is left, whoever has most unfinished input goes.
        """
        cdef uint64_t target = self.hub.memory_bytes - self.hub.memory_bytes // 10
        cdef uint64_t oldest, limit, held, most
        cdef uint32_t i
        cdef Connection *connection
        cdef Connection *worst
        cdef Frame *frame
        while self.all.physical > target and not self.relieved_in_vain:
            oldest = self.all.born
            worst = NULL
            most = 0
            for i in range(self.table.capacity):
                connection = self.table.places[i].connection
                if connection == NULL or connection.box.closed or connection.state == DEAD:
                    continue
                if connection.box.blocked and connection.box.count:
                    frame = oldest_frame(&connection.box)
                    if frame != NULL and frame.born < oldest:
                        oldest = frame.born
                held = connection.stash_capacity + frames_held(&connection.parser)
                if held > most:
                    most = held
                    worst = connection
            if oldest == self.all.born:
                if worst != NULL and most >= 1024 and not self.input_evicted:
                    self.input_evicted = True       # one a turn: its input may be in use right now and is freed at the end
                    self._evict(worst)
                self.relieved_in_vain = True        # nobody else can go before the end of the turn: do not look again
                return
            limit = oldest + (self.all.born - oldest) // 16
            for i in range(self.table.capacity):
                connection = self.table.places[i].connection
                if connection == NULL or connection.box.closed or not connection.box.blocked or not connection.box.count:
                    continue
                frame = oldest_frame(&connection.box)
                if frame != NULL and frame.born <= limit:
                    self._evict(connection)
                    if self.all.physical <= target:
                        return

    cdef void _evict(self, Connection *connection) noexcept nogil:
        self.all.counters[N_MEMORY_EVICTIONS] += 1
        self.doom(connection, CAUSE_MEMORY)
        if connection.box.blocked:
            outbox_discard(self.all, &connection.box)


cdef Frame *oldest_frame(const Outbox *box) noexcept nogil:
    """The first frame queued that was made for it; tombstones and gap notices hold nothing, pings are as old as the worker."""
    cdef uint32_t i
    cdef Frame *frame
    for i in range(box.count):
        frame = outbox_slot(box, i).frame
        if frame != NULL and frame.born != OF_EVERYBODY:
            return frame
    return NULL


cdef uint32_t _ticks(double seconds) except 0:
    if not 0.05 <= seconds <= 86400 * 365:
        raise ValueError(f"{seconds} seconds: a deadline is at least 0.05 seconds and at most a year")
    return <uint32_t>(seconds * TICKS_PER_SECOND + 0.5)
