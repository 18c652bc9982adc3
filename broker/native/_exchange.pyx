"""The engine's end of all links: reads what workers publish, gives it its place by taking it, passes it on.

One process, one event loop, one poller whose fd the loop sees. A turn reads each link that has something, once, and then writes to
each link once. A live message never meets Python; what needs more than an order (joins, history, presence) is handed to the
engine's Python side in the same order, which publishes through `publish`.

Reading never waits for writing. A link whose output is full loses messages instead: they are counted for each channel, and the
worker is told as soon as it takes again, so that its subscribers are (a gap, or the history read again). Only messages are lost;
acks and answers always find room, because a worker has a bounded number of them under way.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from broker.native._pipe cimport (
    FLAG_ERROR, FLAG_NO_ECHO, FLAG_OFFSET, RECORD_ACK, RECORD_CALL, RECORD_MESSAGE, RECORD_MISSED, RECORD_PUBLISH, RECORD_REPLY, Record,
    pipe_flush, pipe_free, pipe_init, pipe_next, pipe_put, pipe_read, pipe_waiting, record_extra, record_name, record_payload,
)
from broker.native._poller cimport (
    Event, POLL_GONE, POLL_IN, POLL_OUT, WATCH_ADD, WATCH_CHANGE, WATCH_REMOVE, poller_close, poller_open, poller_wait, poller_watch,
)
from broker.native._socket cimport SOCKET_AGAIN


cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *time)
    enum:
        CLOCK_REALTIME

cdef size_t MOST_RECORD_BYTES = (<size_t>1 << 31) - 1
cdef uint32_t NO_PORT = 0xFFFFFFFFu
NOBODY = 0xFFFFFFFF     # `port` of what no worker published


cdef uint64_t _now_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


@cython.no_gc_clear     # __dealloc__ reads `topics`
cdef class Exchange:
    def __cinit__(self, handler, call_soon, size_t most_output_bytes):
        self.topics = {}
        self.poller = poller_open()
        if self.poller < 0:
            raise OSError(-self.poller, "epoll_create1")
        self.handler = handler
        self.call_soon = call_soon
        self.most_output = most_output_bytes

    def __init__(self, *args, **kwargs):
        self.turn_method = self.turn

    def __dealloc__(self):
        cdef uint32_t i
        cdef Topic *topic
        for i in range(MOST_PORTS):
            if self.ports[i] != NULL:
                self._free(self.ports[i])
        for address in self.topics.values():
            topic = <Topic *><size_t>address
            Py_DECREF(<object>topic.name)
            free(topic)
        if self.poller >= 0:
            poller_close(self.poller)

    # The loop's side.

    def fileno(self):
        """The poller's fd: readable when any link has something to do."""
        return self.poller

    cdef void _schedule(self):
        if self.in_turn:
            self.left = True
        elif not self.scheduled:
            self.scheduled = True
            self.call_soon(self.turn_method)

    def turn(self):
        """Reads every link that is ready, once, and writes to every link that has something to be told. Never raises."""
        if self.in_turn or self.poller < 0:
            return
        self.scheduled = False
        self.in_turn = True
        try:
            self._turn()
        except BaseException as error:      # cannot come from a link: those are caught one by one
            self.handler.on_error(error)
        self.in_turn = False
        if self.left:
            self._schedule()

    cdef void _turn(self):
        cdef Event events[PORT_EVENTS]
        cdef Port *port
        cdef int n, i, found = poller_wait(self.poller, events, PORT_EVENTS, 0)
        self.now_ms = _now_ms()
        for n in range(found):
            i = <int>((<uint32_t>n + self.next_port) % <uint32_t>found)     # nobody is always first
            port = self.ports[events[i].data.u64]
            if port == NULL or port.dead:
                continue
            if events[i].events & POLL_OUT:
                self._flush_port(port)
            if events[i].events & (POLL_IN | POLL_GONE) and not port.dead:
                self._read(port)
        self.next_port += 1
        self.left = False
        self._flush()
        self._bury()

    cdef void _read(self, Port *port):
        cdef Record *record
        cdef bint broken = False
        cdef ssize_t got = pipe_read(&port.pipe)
        if got == SOCKET_AGAIN:
            return
        if got < 0:
            self._drop(port)
            return
        while not port.dead:
            record = pipe_next(&port.pipe, MOST_RECORD_BYTES, &broken)
            if record == NULL:
                break
            try:
                broken = not self._take_record(port, record)
            except BaseException as error:
                self.handler.on_error(error)
                broken = True
            if broken:
                break
        if broken:
            self._drop(port)
        elif port.taken != port.acked:
            port.dirty = True

    cdef bint _take_record(self, Port *port, const Record *record) except -1:
        """False = not a record that a worker sends."""
        cdef Topic *topic
        if record.type == RECORD_PUBLISH:
            port.taken += 1
            port.taken_bytes += record.size
            self.sequenced += 1
            topic = self._find(PyBytes_FromStringAndSize(<const char *>record_name(record), <Py_ssize_t>record.name_size))
            if topic != NULL:
                self._route(
                    topic, record.kind, record.flags & FLAG_NO_ECHO, port.index, record.conn, 0, self.now_ms, record_extra(record),
                    record.extra_size, record_payload(record), record.payload_size,
                )
            return True
        if record.type != RECORD_CALL and record.type != RECORD_REPLY:
            return False
        name = PyBytes_FromStringAndSize(<const char *>record_name(record), <Py_ssize_t>record.name_size)
        payload = PyBytes_FromStringAndSize(<const char *>record_payload(record), <Py_ssize_t>record.payload_size)
        if record.type == RECORD_CALL:
            self.handler.on_call(port.index, record.kind, record.number, name, payload)
        else:
            self.handler.on_reply(port.index, record.number, payload, record.flags & FLAG_ERROR != 0)
        return True

    cdef void _flush(self):
        cdef uint32_t i
        for i in range(MOST_PORTS):
            if self.ports[i] != NULL and self.ports[i].dirty and not self.ports[i].dead:
                self._flush_port(self.ports[i])

    cdef void _flush_port(self, Port *port):
        cdef Record *record
        port.dirty = False
        if port.taken != port.acked:
            record = pipe_put(&port.pipe, RECORD_ACK, NULL, 0, NULL, 0, NULL, 0)
            if record == NULL:
                self._drop(port)
                return
            record.number = port.acked = port.taken
            record.value = port.taken_bytes
        if not pipe_flush(&port.pipe):
            self._drop(port)
            return
        if port.losing and pipe_waiting(&port.pipe) <= self.most_output // 2:
            self._tell_lost(port)
            if not pipe_flush(&port.pipe):
                self._drop(port)
                return
        if pipe_waiting(&port.pipe) > 4 * self.most_output:
            self._drop(port)        # answers alone do not come to this: it takes nothing any more
            return
        self._watch(port)

    cdef void _watch(self, Port *port):
        cdef bint waits = pipe_waiting(&port.pipe) != 0
        if waits != port.watched_out:
            port.watched_out = waits
            poller_watch(self.poller, WATCH_CHANGE, port.pipe.fd, POLL_IN | POLL_OUT if waits else POLL_IN, port.index)

    # Links.

    def attach(self, int fd):
        """A connected, non-blocking Unix stream socket, which stays the caller's to close after on_closed. Returns its number."""
        cdef uint32_t index = 0
        cdef Port *port
        cdef int problem
        while index < MOST_PORTS and self.ports[index] != NULL:
            index += 1
        if index == MOST_PORTS:
            raise ValueError(f"more than {MOST_PORTS} links")
        port = <Port *>calloc(1, sizeof(Port))      # freed by _free
        if port == NULL:
            raise MemoryError
        if not pipe_init(&port.pipe, fd):
            self._free(port)
            raise MemoryError
        port.index = index
        problem = poller_watch(self.poller, WATCH_ADD, fd, POLL_IN, index)
        if problem:
            self._free(port)
            raise OSError(-problem, "link")
        self.ports[index] = port
        return index

    def detach(self, uint32_t port):
        """Ends a link from this side; on_closed is called."""
        self._drop(self._port(port))
        self._schedule()

    cdef Port *_port(self, uint32_t index) except NULL:
        if index >= MOST_PORTS or self.ports[index] == NULL or self.ports[index].dead:
            raise KeyError(f"no link {index}")
        return self.ports[index]

    cdef void _drop(self, Port *port):
        """Marks a link as gone: nothing is sent to it any more. It is buried at the end of the turn."""
        if port.dead:
            return
        port.dead = True
        poller_watch(self.poller, WATCH_REMOVE, port.pipe.fd, 0, 0)

    cdef void _free(self, Port *port):
        pipe_free(&port.pipe)
        if port.lost != NULL:
            Py_DECREF(<object>port.lost)
        free(port)

    cdef void _bury(self):
        cdef uint32_t i
        cdef Port *port
        for i in range(MOST_PORTS):
            port = self.ports[i]
            if port == NULL or not port.dead:
                continue
            for address in list(self.topics.values()):
                self._unwant(<Topic *><size_t>address, i)
            self.ports[i] = NULL
            self._free(port)
            try:
                self.handler.on_closed(i)
            except BaseException as error:
                self.handler.on_error(error)

    def waiting(self, uint32_t port):
        """Bytes that wait to be written to a link."""
        return pipe_waiting(&self._port(port).pipe)

    def destroy(self):
        """Ends every link. Nothing may be called afterwards."""
        cdef uint32_t i
        if self.in_turn:
            raise RuntimeError("destroy inside a turn")     # whoever called back is still reading its link
        for i in range(MOST_PORTS):
            if self.ports[i] != NULL:
                self._drop(self.ports[i])
        self._bury()
        poller_close(self.poller)
        self.poller = -1

    # Interest.

    cdef Topic *_find(self, bytes name):
        address = self.topics.get(name)
        return NULL if address is None else <Topic *><size_t>address

    def want(self, uint32_t port, bytes name not None):
        """From now on the worker gets what is published to the channel."""
        cdef Topic *topic = self._find(name)
        cdef uint64_t bit = <uint64_t>1 << (port & 63)
        self._port(port)
        if topic == NULL:
            topic = <Topic *>calloc(1, sizeof(Topic))       # freed by _unwant
            if topic == NULL:
                raise MemoryError
            topic.name = <PyObject *>name
            Py_INCREF(name)                                 # released by _unwant
            self.topics[name] = <size_t>topic
        if not topic.wanted[port >> 6] & bit:
            topic.wanted[port >> 6] |= bit
            topic.count += 1

    cdef void _unwant(self, Topic *topic, uint32_t index):
        cdef uint64_t bit = <uint64_t>1 << (index & 63)
        if not topic.wanted[index >> 6] & bit:
            return
        topic.wanted[index >> 6] &= ~bit
        topic.count -= 1
        if topic.count == 0:
            name = <object>topic.name
            del self.topics[name]
            Py_DECREF(name)
            free(topic)

    def unwant(self, uint32_t port, bytes name not None):
        """The worker's interest is over."""
        cdef Topic *topic = self._find(name)
        self._port(port)
        if topic != NULL:
            self._unwant(topic, port)

    def wanted(self, bytes name not None):
        """How many workers want the channel."""
        cdef Topic *topic = self._find(name)
        return 0 if topic == NULL else topic.count

    def names(self):
        """Channels that a worker wants."""
        return list(self.topics)

    # Passing on.

    cdef uint32_t _route(self, Topic *topic, uint8_t kind, uint8_t flags, uint32_t origin, uint64_t conn, uint64_t offset, uint64_t time_ms,
                         const uint8_t *extra, size_t extra_size, const uint8_t *payload, size_t payload_size) except? 0xFFFFFFFF:
        """Puts a message on every link that wants it; returns on how many."""
        cdef uint32_t i, word, links = 0
        cdef uint64_t bits
        cdef Port *port
        cdef Record *record
        cdef const uint8_t *text = <const uint8_t *>PyBytes_AS_STRING(<object>topic.name)
        cdef size_t text_size = <size_t>PyBytes_GET_SIZE(<object>topic.name)
        for word in range(PORT_WORDS):
            bits = topic.wanted[word]
            i = word * 64
            while bits:
                if bits & 1:
                    port = self.ports[i]
                    if port != NULL and not port.dead:
                        # A port that loses goes on losing until it has been told: what it gets must be in order with the notice.
                        if port.losing or pipe_waiting(&port.pipe) + payload_size > self.most_output:
                            self._lose(port, topic, offset)
                        else:
                            record = pipe_put(&port.pipe, RECORD_MESSAGE, text, text_size, extra, extra_size, payload, payload_size)
                            if record == NULL:
                                self._lose(port, topic, offset)
                            else:
                                record.kind = kind
                                record.flags = flags | (FLAG_OFFSET if offset else 0)
                                record.conn = conn if i == origin else 0
                                record.number = offset
                                record.value = time_ms
                                links += 1
                        port.dirty = True
                bits >>= 1
                i += 1
        return links

    cdef void _lose(self, Port *port, Topic *topic, uint64_t offset):
        """Counts a message that one worker does not get: how many of a live channel, from which offset with history."""
        self.lost_count += 1
        port.losing = True
        if port.lost == NULL:
            lost = {}
            Py_INCREF(lost)                             # released by _tell_lost or _free
            port.lost = <PyObject *>lost
        lost = <dict>port.lost
        name = <object>topic.name
        if offset:
            if name not in lost:
                lost[name] = (offset, True)
        else:
            lost[name] = (lost[name][0] + 1 if name in lost else 1, False)

    cdef void _tell_lost(self, Port *port):
        cdef Record *record
        lost = <dict>port.lost
        Py_DECREF(lost)
        port.lost = NULL
        port.losing = False
        for name, (number, with_offset) in lost.items():
            record = pipe_put(&port.pipe, RECORD_MISSED, <const uint8_t *>PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), NULL, 0, NULL, 0)
            if record == NULL:
                self._drop(port)        # a worker that cannot be told must not go on as if nothing had happened
                return
            record.number = number
            record.flags = FLAG_OFFSET if with_offset else 0

    def publish(self, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None, uint32_t port, uint64_t conn, bint echo,
                uint64_t offset, uint64_t time_ms):
        """Passes on what the Python side has sequenced; returns how many workers get it. `port`: of the publisher, NOBODY = none."""
        cdef Topic *topic = self._find(name)
        cdef uint32_t links
        self.sequenced += 1
        if topic == NULL:
            return 0
        links = self._route(
            topic, kind, 0 if echo else FLAG_NO_ECHO, port, conn, offset, time_ms, <const uint8_t *>PyBytes_AS_STRING(extra),
            <size_t>PyBytes_GET_SIZE(extra), <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload),
        )
        self._schedule()
        return links

    cdef bint _put(self, uint32_t index, RecordType type, uint8_t kind, uint8_t flags, uint64_t number, bytes name, bytes payload) except -1:
        cdef Port *port = self._port(index)
        cdef Record *record = pipe_put(
            &port.pipe, type, <const uint8_t *>PyBytes_AS_STRING(name), <size_t>PyBytes_GET_SIZE(name), NULL, 0,
            <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload),
        )
        if record == NULL:
            raise MemoryError
        record.kind = kind
        record.flags = flags
        record.number = number
        port.dirty = True
        self._schedule()
        return True

    def tell(self, uint32_t port, uint8_t verb, bytes name not None, bytes payload not None):
        """Tells one worker something that wants no answer."""
        self._put(port, RECORD_CALL, verb, 0, 0, name, payload)

    def tell_wanting(self, uint8_t verb, bytes name not None, bytes payload not None):
        """Tells every worker that wants the channel."""
        cdef Topic *topic = self._find(name)
        cdef uint32_t i
        if topic == NULL:
            return
        for i in range(MOST_PORTS):
            if topic.wanted[i >> 6] >> (i & 63) & 1 and self.ports[i] != NULL and not self.ports[i].dead:
                self._put(i, RECORD_CALL, verb, 0, 0, name, payload)

    def call(self, uint32_t port, uint8_t verb, uint64_t token, bytes name not None, bytes payload not None):
        """Asks one worker; the answer comes by on_reply with the same token."""
        self._put(port, RECORD_CALL, verb, 0, token, name, payload)

    def reply(self, uint32_t port, uint64_t token, bytes payload not None, bint failed):
        """Answers what on_call asked."""
        self._put(port, RECORD_REPLY, 0, FLAG_ERROR if failed else 0, token, b"", payload)
