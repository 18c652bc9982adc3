"""The worker's end of a link: raw messages go to the engine and sequenced ones come to the hub, without Python.

Fifth layer of the reactor. Every publish of this worker goes onto the link first, also for its own subscribers: it is delivered
when it comes back in the engine's order. Publishes are numbered by being sent; the engine acknowledges how many and how many bytes it
has taken, and what is under way is bounded by `link_window`. Without credit the sockets of publishers are not read. Reading
the link never waits for writing it.

A publish that was sent and not acknowledged when the link breaks has an unknown outcome. Raw publishers cannot be told, so
they are named to the Python side, which ends them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from broker.native._connection cimport Connection, DEAD, PAUSED_CREDIT, connection_id, table_find
from broker.native._counters cimport H_LINK_LAG_NS, N_CREDIT_WAITS, N_PUBLISHED, N_SEQUENCED, PATTERN_MESSAGES, of_pattern
from broker.native._hub cimport Channel, Message
from broker.native._histogram cimport observe_ns
from broker.native._intake cimport Intake
from broker.native._pipe cimport (
    FLAG_ERROR, FLAG_NO_ECHO, FLAG_OFFSET, Pipe, RECORD_ACK, RECORD_CALL, RECORD_MESSAGE, RECORD_MISSED, RECORD_PUBLISH, RECORD_REPLY,
    Record, RecordType, pipe_flush, pipe_free, pipe_init, pipe_next, pipe_put, pipe_read, pipe_waiting, record_extra, record_name,
    record_payload,
)
from broker.native._poller cimport POLL_IN, POLL_OUT, WATCH_ADD, WATCH_CHANGE, WATCH_REMOVE, poller_watch
from broker.native._queue cimport Outbox
from broker.native._socket cimport SOCKET_AGAIN


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *time)
    enum:
        CLOCK_REALTIME

cdef size_t MOST_RECORD_BYTES = (<size_t>1 << 31) - 1


cdef class Linked(Intake):
    def __dealloc__(self):
        if self.attached:       # not by a method: if a layer below could not be made, this one's are not there yet
            pipe_free(&self.pipe)

    cdef void _release_link(self):
        if self.attached:
            self.attached = False
            pipe_free(&self.pipe)

    # The loop's side; the turn calls these.

    cdef void link_ready(self, bint readable):
        if readable and self.attached and not self.link_left:     # what was read before is taken first: order
            self.read_link()

    cdef void read_link(self):
        cdef ssize_t got = pipe_read(&self.pipe)
        if got == SOCKET_AGAIN:
            return
        if got < 0:
            self.lose_link()
            return
        self.heard += 1
        self.take_link()

    cdef void take_link(self):
        """Takes whole records until none is left or the turn is over."""
        cdef Record *record
        cdef bint broken = False
        cdef uint64_t offers
        cdef bint lag_seen = False
        self.link_left = False
        while self.attached:
            offers = self.offers
            record = pipe_next(&self.pipe, MOST_RECORD_BYTES, &broken)
            if record == NULL:
                break
            if record.type == RECORD_MESSAGE and not lag_seen:
                lag_seen = True         # the oldest of a batch stands for it
                self._observe_lag(record.value)
            try:
                broken = not self._take_record(record)
            except BaseException as error:
                self._report(error)
                broken = True
            if broken:
                break
            self.heard += 1
            self.work += 1 + (self.offers - offers) // 64
            if self.turn_is_over():
                self.link_left = self.attached      # the end of the turn asks for the next
                break
        if broken and self.attached:
            self.lose_link()

    cdef void _observe_lag(self, uint64_t sequenced_ms) noexcept nogil:
        """From the engine's stamp to here, by the wall clock that both read; a stamp of a clock that was set back counts as now."""
        cdef timespec now
        cdef uint64_t now_ms
        clock_gettime(CLOCK_REALTIME, &now)
        now_ms = <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000
        observe_ns(&self.all.counters[H_LINK_LAG_NS], (now_ms - sequenced_ms) * 1000000 if now_ms > sequenced_ms else 0)

    cdef bint _take_record(self, const Record *record) except -1:
        """False = not a record that an engine sends."""
        if record.type == RECORD_MESSAGE:
            if record.flags & FLAG_OFFSET:
                self.link_handler.on_sequenced(
                    _name(record), record.kind, _payload(record), _extra(record), record.conn, not record.flags & FLAG_NO_ECHO, record.number,
                    record.value,
                )
            else:
                self._deliver(record)
        elif record.type == RECORD_ACK:
            self._acked(record)
        elif record.type == RECORD_MISSED:
            self.link_handler.on_missed(_name(record), record.number, record.flags & FLAG_OFFSET != 0)
        elif record.type == RECORD_CALL:
            self.link_handler.on_call(record.kind, record.number, _name(record), _payload(record))
        elif record.type == RECORD_REPLY:
            self.link_handler.on_reply(record.number, _payload(record), record.flags & FLAG_ERROR != 0)
        else:
            return False
        return True

    cdef void _deliver(self, const Record *record):
        cdef Channel *channel = self.hub.find(_name(record))
        cdef Connection *publisher
        cdef Outbox *except_box = NULL
        cdef Message message
        cdef int64_t offers
        if channel == NULL:
            return
        message.channel = channel
        message.payload = record_payload(record)
        message.size = record.payload_size
        message.extra = record_extra(record)
        message.extra_size = record.extra_size
        message.kind = record.kind
        message.offset = 0
        message.time_ms = record.value
        if record.flags & FLAG_NO_ECHO and record.conn:
            publisher = table_find(&self.table, record.conn)
            if publisher != NULL:
                except_box = &publisher.box
        offers = self.hub.deliver(&message, except_box)
        self.offers += <uint64_t>offers

    cdef void _acked(self, const Record *record):
        cdef uint32_t i
        cdef Connection *connection
        if record.number > self.link_sent or record.number < self.link_acked or record.value > self.link_sent_bytes:
            raise ValueError("an ack of what was never sent")
        self.all.counters[N_SEQUENCED] += record.number - self.link_acked
        self.link_acked = record.number
        self.link_acked_bytes = record.value
        if self.publish_blocked and self.link_sent_bytes - self.link_acked_bytes <= self.link_window // 2:
            self.publish_blocked = False
            for i in range(self.table.capacity):
                connection = self.table.places[i].connection
                if connection != NULL and connection.paused & PAUSED_CREDIT:
                    connection.paused &= ~PAUSED_CREDIT
                    if connection.state != DEAD:
                        self._unpause(connection)
        if self.someone_waits:
            self.link_handler.on_acked(record.number)

    cdef void flush_link(self):
        cdef bint waits
        if not self.attached or (pipe_waiting(&self.pipe) == 0 and not self.link_watched_out):
            return
        if not pipe_flush(&self.pipe):
            self.lose_link()
            return
        waits = pipe_waiting(&self.pipe) != 0
        if waits != self.link_watched_out:
            self.link_watched_out = waits
            poller_watch(self.poller, WATCH_CHANGE, self.pipe.fd, POLL_IN | POLL_OUT if waits else POLL_IN, TAG_LINK)

    cdef bint link_waits(self) noexcept nogil:
        return self.attached and not self.link_watched_out and pipe_waiting(&self.pipe) != 0

    cdef void lose_link(self):
        """The other end is gone, or speaks nonsense. Not inside a fan-out."""
        cdef uint32_t i
        cdef Connection *connection
        if not self.attached:
            return
        poller_watch(self.poller, WATCH_REMOVE, self.pipe.fd, 0, 0)
        self._release_link()
        self.link_left = self.link_watched_out = False
        self.publish_blocked = False
        unknown = []
        for i in range(self.table.capacity):
            connection = self.table.places[i].connection
            if connection == NULL or connection.state == DEAD:
                continue
            if connection.published > self.link_acked:
                unknown.append(connection_id(connection))
            connection.published = 0
            if connection.paused & PAUSED_CREDIT:       # what comes next is refused loudly
                connection.paused &= ~PAUSED_CREDIT
                self._unpause(connection)
        try:
            self.link_handler.on_down(unknown)
        except BaseException as error:
            self._report(error)
        self.schedule()

    # Publishing.

    cdef uint64_t put_publish(self, const Message *message, uint64_t conn, bint echo) noexcept nogil:
        """Puts a publish on the link; its number, 0 = no memory."""
        cdef Record *record = pipe_put(
            &self.pipe, RECORD_PUBLISH, message.channel.text, message.channel.text_size, message.extra, message.extra_size, message.payload, message.size
        )
        if record == NULL:
            return 0
        record.kind = message.kind
        record.conn = conn
        if not echo:
            record.flags = FLAG_NO_ECHO
        self.all.counters[N_PUBLISHED] += 1
        self.link_sent += 1
        self.link_sent_bytes += record.size
        if self.link_sent_bytes - self.link_acked_bytes >= self.link_window:
            self.all.counters[N_CREDIT_WAITS] += not self.publish_blocked
            self.publish_blocked = True
        return self.link_sent

    cdef void forward(self, Connection *connection, Message *message):
        cdef uint64_t number = 0
        if not self.remote:
            Intake.forward(self, connection, message)
            return
        if self.attached:
            number = self.put_publish(message, connection_id(connection), True)
        if number:
            connection.published = number
            of_pattern(self.all.counters, message.channel.pattern)[PATTERN_MESSAGES] += 1
            return
        try:
            self.handler.on_unpublished(connection_id(connection), self.session_of(connection))
        except BaseException as error:
            self.failed_callback(connection, error)

    # Verbs of the Python side.

    def expect_link(self, handler, uint64_t window_bytes):
        """From now on the engine is elsewhere. Until a link is attached every publish fails."""
        self.link_handler = handler
        self.link_window = window_bytes
        self.remote = True

    def attach_link(self, int fd):
        """A connected, non-blocking Unix stream socket; the caller keeps it open until on_down or detach_link."""
        cdef int problem
        if self.attached or not self.remote:
            raise RuntimeError("a link is there already, or none is expected")
        if not pipe_init(&self.pipe, fd):
            pipe_free(&self.pipe)
            raise MemoryError
        problem = poller_watch(self.poller, WATCH_ADD, fd, POLL_IN, TAG_LINK)
        if problem:
            pipe_free(&self.pipe)
            raise OSError(-problem, "link")
        self.attached = True
        self.link_sent = self.link_sent_bytes = self.link_acked = self.link_acked_bytes = 0

    def detach_link(self):
        """Ends the link from this side; on_down is called."""
        self.lose_link()

    def link_publish(self, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None, uint64_t conn, bint echo):
        """Puts a live publish of the Python side on the link; returns its number, 0 = there is no link, or no memory."""
        cdef Channel channel
        cdef Message message
        cdef uint64_t number = 0
        if not self.attached:
            return 0
        channel.text = <const uint8_t *>PyBytes_AS_STRING(name)
        channel.text_size = <uint32_t>PyBytes_GET_SIZE(name)
        message.channel = &channel
        message.payload = <const uint8_t *>PyBytes_AS_STRING(payload)
        message.size = <size_t>PyBytes_GET_SIZE(payload)
        message.extra = <const uint8_t *>PyBytes_AS_STRING(extra)
        message.extra_size = <size_t>PyBytes_GET_SIZE(extra)
        message.kind = kind
        number = self.put_publish(&message, conn, echo)
        self.schedule()
        return number

    cdef bint _put(self, RecordType type, uint8_t kind, uint8_t flags, uint64_t number, bytes name, bytes payload) except -1:
        cdef Record *record
        if not self.attached:
            return False
        record = pipe_put(
            &self.pipe, type, <const uint8_t *>PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), NULL, 0,
            <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload),
        )
        if record == NULL:
            raise MemoryError
        record.kind = kind
        record.flags = flags
        record.number = number
        self.schedule()
        return True

    def link_call(self, uint8_t verb, uint64_t token, bytes name not None, bytes payload not None):
        """Asks the engine; the answer comes by on_reply with the same token; 0 = none is wanted. Needs no credit. False = no link."""
        return self._put(RECORD_CALL, verb, 0, token, name, payload)

    def link_reply(self, uint64_t token, bytes payload not None, bint failed):
        """Answers what on_call asked."""
        return self._put(RECORD_REPLY, 0, FLAG_ERROR if failed else 0, token, b"", payload)

    def link_count(self, bint sequenced):
        """A publish that goes as a call: accepted here, or, later, sequenced."""
        self.all.counters[N_SEQUENCED if sequenced else N_PUBLISHED] += 1

    def link_wait(self, bint waiting):
        """Whether on_acked is wanted."""
        self.someone_waits = waiting

    @property
    def linked(self):
        return self.attached

    @property
    def link_has_credit(self):
        """Whether another publish may be sent now."""
        return self.attached and not self.publish_blocked

    @property
    def link_heard(self):
        """Grows with whatever comes from the engine."""
        return self.heard

    @property
    def link_under_way(self):
        """Publishes sent and not acknowledged."""
        return self.link_sent - self.link_acked if self.attached else 0


cdef bytes _name(const Record *record):
    return PyBytes_FromStringAndSize(<const char *>record_name(record), <Py_ssize_t>record.name_size)


cdef bytes _extra(const Record *record):
    return PyBytes_FromStringAndSize(<const char *>record_extra(record), <Py_ssize_t>record.extra_size)


cdef bytes _payload(const Record *record):
    return PyBytes_FromStringAndSize(<const char *>record_payload(record), <Py_ssize_t>record.payload_size)
