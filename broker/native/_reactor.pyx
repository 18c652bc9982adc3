"""The reactor of one worker: every client socket, behind one file descriptor of the event loop.

Theory of operation. The loop calls `turn` when the poller's fd is readable, or by call_soon when work was left over. A turn runs
the input that waits, polls up to four times or 1 ms (so that accept and request of one client share a turn), then flushes what all
of that queued: one write a connection. Then come deadlines, connections whose queue overflowed, and the graveyard.

Input is read into one buffer. A read pass takes so many messages and causes so many deliveries at most; the rest is copied to the
connection, which joins the pending list: bytes in user space are never reported again by the kernel. Output, closing and deadlines
are in _lifecycle. `turn` never raises, because the loop would call a raising reader for ever.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from posix.unistd cimport close, read

from broker.native._connection cimport (
    CAUSE_ANSWERED, CAUSE_BAD_REQUEST, CAUSE_FULL, CAUSE_MEMORY, CAUSE_NONE, CAUSE_PEER_CLOSED, CAUSE_PEER_GONE,
    CAUSE_PROTOCOL, CLOSING, Connection, DEAD, DECIDING, ENDING, HEAD, HELD, OPEN, PAUSED_COMMAND, PAUSED_DECISION,
    connection_id, stash_append, stash_free, table_add, table_find, table_remove,
)
from broker.native._counters cimport (
    G_CONNECTIONS, G_SESSIONS, N_ACCEPTED, N_ACCEPT_PAUSES, N_BYTES_READ, N_CLOSED, N_INPUT_PAUSES, N_MESSAGES_DISCARDED,
    N_MESSAGES_RECEIVED, N_OPENED, N_PUBLISHED, N_REFUSED_CLOSE, N_REFUSED_FULL, N_REFUSED_HTTP, N_REQUESTS, N_SEQUENCED,
)
from broker.native._frames cimport (
    FRAME_CLOSE, FRAME_FAILED, FRAME_MESSAGE, FRAME_NEED_MORE, FRAME_PING, Parsed, frames_held, frames_in_message, frames_next,
)
from broker.native._hub cimport (
    Channel, Hub, KIND_BINARY, KIND_DATA, KIND_TEXT, Message, PAYLOAD_BINARY, PAYLOAD_JSON, PAYLOAD_TEXT,
)
from broker.native._json cimport base64_write, json_check
from broker.native._json import PROBLEMS
from broker.native._lifecycle cimport Lifecycle
from broker.native._poller cimport (
    Event, POLL_GONE, POLL_IN, POLL_NOTHING, POLL_OUT, WATCH_ADD, WATCH_CHANGE, WATCH_REMOVE, poller_wait, poller_watch,
)
from broker.native._queue cimport (
    FORMAT_RAW, Frame, LANE_CONTROL, Subscription, frame_message, frame_new, frame_release, outbox_push, outbox_set_pong,
    subscription_detach, subscription_new,
)
from broker.native._request cimport Request, request_end, request_parse
from broker.native._socket cimport (
    ACCEPT_LATER, SOCKET_AGAIN, SOCKET_GONE, accept_one, close_socket, peer_address, prepare_listener, read_some,
)


cdef extern from "<sys/timerfd.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec *new_value, itimerspec *old_value)
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        CLOCK_MONOTONIC

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags)

cdef extern from "<malloc.h>" nogil:
    int mallopt(int parameter, int value)
    enum:
        M_MMAP_THRESHOLD
        M_TRIM_THRESHOLD

cdef int ACCEPT_BATCH = 64              # connections taken of one listener before others have their turn
cdef int POLLS = 4
cdef uint64_t POLLS_NS = 1000000
cdef uint32_t ACCEPT_PAUSE_TICKS = 4    # 200 ms until accept is tried again after EMFILE
STATES = ("head", "deciding", "open", "held", "closing", "ending", "dead")


cdef class Reactor(Lifecycle):
    def __cinit__(self, Hub hub, handler, closes, call_soon, *, uint32_t max_head_bytes, uint32_t max_headers,
                  uint64_t max_message_bytes, uint32_t max_fragments, uint32_t max_connections, int max_json_depth,
                  uint32_t read_pass_messages, uint64_t read_pass_offers, bint text_ping=True, bint direct=True, **_):
        cdef itimerspec every
        # Fixed, so that glibc does not raise them by itself and memory of a peak goes back to the system (mallopt(3)).
        mallopt(M_MMAP_THRESHOLD, 256 * 1024)
        mallopt(M_TRIM_THRESHOLD, 256 * 1024)
        self.call_soon = call_soon
        self.max_connections = max_connections
        self.pass_messages = read_pass_messages
        self.pass_offers = read_pass_offers
        self.json_depth = max_json_depth
        self.text_ping = text_ping
        self.direct = direct
        self.frame_limits.max_message_bytes = max_message_bytes
        self.frame_limits.max_fragments = max_fragments
        self.request_limits.max_head_bytes = max_head_bytes
        self.request_limits.max_headers = max_headers
        self.entropy_at = sizeof(self.entropy)
        self.input = <uint8_t *>malloc(READ_BYTES)          # freed by __dealloc__
        if self.input == NULL:
            raise MemoryError
        self.tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        every.it_interval.tv_sec = every.it_value.tv_sec = 0
        every.it_interval.tv_nsec = every.it_value.tv_nsec = 50000000       # one tick of the wheel
        if self.tick_fd < 0 or timerfd_settime(self.tick_fd, 0, &every, NULL) or poller_watch(self.poller, WATCH_ADD, self.tick_fd, POLL_IN, TAG_TICK):
            raise OSError("timerfd")

    def __init__(self, *args, **kwargs):
        self.turn_method = self.turn

    def __dealloc__(self):
        free(self.input)
        if self.tick_fd > 0:
            close(self.tick_fd)

    # The loop's side.

    def fileno(self):
        """The poller's fd: readable when any socket has something to do."""
        return self.poller

    def turn(self):
        """One turn; see the module. Never raises."""
        self.scheduled = False
        self.in_turn = True
        try:
            self._turn()
        except BaseException as error:      # cannot come from a connection: those are caught one by one
            self._report(error)
        self.in_turn = False
        if self.pending != NULL or self.doomed != NULL or self.graves != NULL or not self.lanes_empty():
            self.schedule()

    cdef void schedule(self):
        if not self.in_turn and not self.scheduled:
            self.scheduled = True
            self.call_soon(self.turn_method)

    cdef void _turn(self):
        cdef Event events[EVENTS]
        cdef Connection *connection
        cdef uint64_t started = self.now_ns(), tag
        cdef uint64_t ticks
        cdef int i, found, polls = 0
        cdef bint accepted, ticked = False
        self.tick = <uint32_t>((started - self.started_ns) // 50000000) + 1
        self.run_pending()
        while polls < POLLS:
            polls += 1
            accepted = False
            found = poller_wait(self.poller, events, EVENTS, 0)
            for i in range(found):
                tag = events[i].data.u64
                if tag >> 32 == 0:
                    if tag == TAG_TICK:
                        read(self.tick_fd, &ticks, sizeof(ticks))
                        ticked = True
                    else:
                        self.accept_some(self.listeners[tag - TAG_LISTENER])
                        accepted = True
                    continue
                connection = table_find(&self.table, tag)
                if connection == NULL or connection.state == DEAD:
                    continue
                if events[i].events & POLL_OUT:
                    self.flush_connection(connection)
                if events[i].events & (POLL_IN | POLL_GONE):
                    if connection.paused and events[i].events & POLL_GONE:
                        self.kill(connection, CAUSE_PEER_GONE)      # reset while we were not reading
                    else:
                        self.readable(connection)
            if not accepted and found < EVENTS:
                break       # nothing that would be followed at once by more of its own
            if self.now_ns() - started > POLLS_NS:
                break
        self.flush_slice()
        if ticked:
            self.run_deadlines()
            if self.accept_paused and <int32_t>(self.accept_again_tick - self.tick) <= 0:
                self.resume_accept()
        self._end_turn()

    cdef void _end_turn(self):
        self.settle()
        if self.graves != NULL:
            self.bury()

    # Accepting.

    def listen(self, int fd, int notsent_lowat_bytes):
        """Accepts from a listening, non-blocking socket, which stays the caller's to close after stop_accepting."""
        cdef int problem
        if self.listener_count == MOST_LISTENERS:
            raise ValueError(f"more than {MOST_LISTENERS} listeners")
        problem = prepare_listener(fd, notsent_lowat_bytes)
        if not problem:
            problem = poller_watch(self.poller, WATCH_ADD, fd, POLL_IN, TAG_LISTENER + self.listener_count)
        if problem:
            raise OSError(-problem, "listener")
        self.listeners[self.listener_count] = fd
        self.listener_count += 1

    def stop_accepting(self):
        """Takes what the accept queues hold by now, then lets go of the listeners."""
        cdef int i
        for i in range(self.listener_count):
            self.accept_some(self.listeners[i])
            poller_watch(self.poller, WATCH_REMOVE, self.listeners[i], 0, 0)
        self.listener_count = 0
        self.schedule()

    cdef void pause_accept(self):
        cdef int i
        self.accept_paused = True
        self.accept_again_tick = self.tick + ACCEPT_PAUSE_TICKS
        self.all.counters[N_ACCEPT_PAUSES] += 1
        for i in range(self.listener_count):
            poller_watch(self.poller, WATCH_CHANGE, self.listeners[i], POLL_NOTHING, TAG_LISTENER + i)

    cdef void resume_accept(self):
        cdef int i
        self.accept_paused = False
        for i in range(self.listener_count):
            poller_watch(self.poller, WATCH_CHANGE, self.listeners[i], POLL_IN, TAG_LISTENER + i)

    cdef void accept_some(self, int listener):
        cdef Connection *connection
        cdef int i, fd
        if self.accept_paused:
            return
        for i in range(ACCEPT_BATCH):
            fd = accept_one(listener)
            if fd == SOCKET_AGAIN:
                return
            if fd == SOCKET_GONE:
                continue
            if fd == ACCEPT_LATER:
                self.pause_accept()
                return
            connection = table_add(&self.table, fd)
            if connection == NULL or poller_watch(self.poller, WATCH_ADD, fd, POLL_IN, connection_id(connection)):
                close_socket(fd, True)
                if connection != NULL:
                    table_remove(&self.table, connection)
                self.pause_accept()
                return
            connection.watched = POLL_IN
            connection.state_tick = self.tick + self.timing.handshake
            self.arm(connection)
            self.all.counters[N_ACCEPTED] += 1
            self.all.counters[G_CONNECTIONS] += 1
            if self.table.used > self.max_connections:
                self.all.counters[N_REFUSED_FULL] += 1
                self._respond(connection, self.closes[CAUSE_FULL], CAUSE_FULL)      # before any work for it
            else:
                self.readable(connection)   # the request is often there already

    # Reading.

    cdef void readable(self, Connection *connection):
        cdef ssize_t got
        if connection.paused or connection.pending:
            self.watch(connection, connection.watched & ~POLL_IN)
            return
        got = read_some(connection.fd, self.input, READ_BYTES)
        if got == SOCKET_AGAIN:
            return
        if got <= 0:
            self.kill(connection, CAUSE_PEER_GONE)
            return
        self.all.counters[N_BYTES_READ] += <uint64_t>got
        if connection.pong_tick:
            connection.pong_tick = 0        # any byte is life
        self.receive(connection, self.input, <size_t>got)

    cdef void receive(self, Connection *connection, uint8_t *data, size_t size):
        cdef size_t taken
        if connection.state == HEAD:
            self.receive_head(connection, data, size)
        elif connection.state != ENDING and connection.state != DEAD:
            taken = self.take(connection, data, size)
            if taken < size and connection.state < ENDING:
                self.keep(connection, data + taken, size - taken)

    cdef void keep(self, Connection *connection, uint8_t *data, size_t size):
        """Copies input that was read but not taken; it runs before the next poll, or after resume."""
        cdef uint32_t before = connection.stash_capacity
        if not stash_append(connection, data, size, READ_BYTES + 65536):
            self.fail(connection, CAUSE_MEMORY)
            return
        self.all.physical += connection.stash_capacity - before
        self.all.counters[N_INPUT_PAUSES] += 1
        self.queue_input(connection)

    cdef void queue_input(self, Connection *connection):
        if connection.pending or connection.paused:
            return
        connection.pending = 1
        connection.next_pending = NULL
        if self.pending == NULL:
            self.pending = connection
        else:
            self.pending_last.next_pending = connection
        self.pending_last = connection
        self.watch(connection, connection.watched & ~POLL_IN)

    cdef void run_pending(self):
        """Gives every connection with waiting input one pass. Whoever still has some joins the list of the next turn."""
        cdef Connection *connection = self.pending
        cdef Connection *following
        self.pending = self.pending_last = NULL
        while connection != NULL:
            following = connection.next_pending
            connection.pending = 0
            if connection.state != DEAD:
                self.take_stash(connection)
            connection = following

    cdef void take_stash(self, Connection *connection):
        """Takes input from the stash until it is empty, or a budget or a pause stops it."""
        cdef size_t taken
        if connection.stash != NULL and connection.state != HEAD and connection.state < ENDING and not connection.paused:
            taken = self.take(connection, connection.stash + connection.stash_at, connection.stash_size - connection.stash_at)
            if connection.stash == NULL:    # the connection failed meanwhile
                return
            connection.stash_at += <uint32_t>taken
        if connection.stash != NULL and (connection.stash_at == connection.stash_size or connection.state >= ENDING):
            self.all.physical -= connection.stash_capacity
            stash_free(connection)
        if connection.state == DEAD:
            return
        if connection.stash != NULL:
            self.queue_input(connection)
        elif not connection.paused:
            self.watch(connection, connection.watched | POLL_IN)

    # The request head.

    cdef void receive_head(self, Connection *connection, uint8_t *data, size_t size):
        cdef uint32_t before = connection.stash_capacity, scanned = 0
        cdef long end
        cdef Request request
        if connection.stash != NULL:
            scanned = connection.stash_at
            if not stash_append(connection, data, size, self.request_limits.max_head_bytes + READ_BYTES):
                self.kill(connection, CAUSE_MEMORY)
                return
            self.all.physical += connection.stash_capacity - before
            data = connection.stash
            size = connection.stash_size
        end = request_end(data, size, &self.request_limits, &scanned)
        if end == 0:
            if connection.stash == NULL:
                if not stash_append(connection, data, size, READ_BYTES):
                    self.kill(connection, CAUSE_MEMORY)
                    return
                self.all.physical += connection.stash_capacity
            connection.stash_at = scanned
            return
        connection.state = DECIDING
        connection.paused = PAUSED_DECISION
        self.all.counters[N_REQUESTS] += 1
        if end < 0:
            self._release_stash(connection)
            try:
                self.handler.on_malformed(connection_id(connection), -end)
            except BaseException as error:
                self.failed_callback(connection, error)
            return
        try:
            request = request_parse(data, <size_t>end, &self.request_limits)
        except BaseException as error:
            self.failed_callback(connection, error)
            return
        # What follows the head in the same read are frames (RFC 6455 4.2.2: the client may send after the 101; some do before).
        if connection.stash != NULL:
            connection.stash_at = <uint32_t>end
            if connection.stash_at == connection.stash_size:
                self._release_stash(connection)
        elif <size_t>end < size:
            if not stash_append(connection, data + end, size - <size_t>end, READ_BYTES):
                self.kill(connection, CAUSE_MEMORY)
                return
            self.all.physical += connection.stash_capacity
        try:
            self.handler.on_request(connection_id(connection), request)
        except BaseException as error:
            self.failed_callback(connection, error)

    cdef void _release_stash(self, Connection *connection):
        if connection.stash != NULL:
            self.all.physical -= connection.stash_capacity
            stash_free(connection)

    # Frames.

    cdef size_t take(self, Connection *connection, uint8_t *data, size_t size):
        """One read pass over frames; returns the bytes taken."""
        cdef Parsed parsed
        cdef size_t at = 0, used = 0, held
        cdef uint32_t messages = 0
        cdef uint64_t most_offers = self.offers + self.pass_offers
        cdef int event
        while at < size:
            if messages >= self.pass_messages or self.offers >= most_offers or connection.paused or connection.state >= ENDING or connection.doomed:
                break
            held = frames_held(&connection.parser)
            event = frames_next(&connection.parser, &self.frame_limits, data + at, size - at, &used, &parsed)
            self.all.physical += frames_held(&connection.parser) - held
            at += used
            if event == FRAME_NEED_MORE:
                break
            if event == FRAME_MESSAGE:
                messages += 1
                if connection.state == OPEN:
                    self.on_message(connection, &parsed)
                else:
                    self.all.counters[N_MESSAGES_DISCARDED] += 1
            elif event == FRAME_PING:
                if connection.state == OPEN:
                    self._pong(connection, &parsed)
            elif event == FRAME_CLOSE:
                self.on_peer_close(connection, &parsed)
                break
            elif event == FRAME_FAILED:
                self.fail(connection, <uint8_t>(CAUSE_PROTOCOL + parsed.failure))
                break
        held = frames_held(&connection.parser)
        if held and not frames_in_message(&connection.parser):
            frames_next(&connection.parser, &self.frame_limits, data + at, 0, &used, &parsed)     # gives back the message just handled
            self.all.physical += frames_held(&connection.parser) - held
        if frames_in_message(&connection.parser):
            if connection.message_tick == 0 and connection.state < CLOSING:
                connection.message_tick = self.tick + self.timing.message
                self.arm(connection)
        else:
            connection.message_tick = 0
        if self.all.physical > self.hub.memory_bytes:
            self.relieve()
        return at

    cdef void _pong(self, Connection *connection, Parsed *parsed):
        cdef Frame *frame = frame_message(self.all, 10, parsed.data, parsed.size)
        if frame != NULL:           # without memory the ping goes unanswered, which RFC 6455 5.5.3 lets a later pong make good
            outbox_set_pong(self.all, &connection.box, frame)
            self.mark(connection, LANE_CONTROL)

    cdef void on_peer_close(self, Connection *connection, Parsed *parsed):
        cdef uint8_t payload[2]
        connection.peer_closed = 1
        if connection.state == CLOSING:
            connection.state = ENDING
            if connection.end_written:
                self.last_byte_written(connection)
            return
        payload[0] = <uint8_t>(parsed.close_code >> 8)
        payload[1] = <uint8_t>(parsed.close_code & 0xFF)
        self.end_with(connection, frame_message(self.all, 8, payload, 2 if parsed.close_code else 0), CAUSE_PEER_CLOSED, False)

    cdef void on_message(self, Connection *connection, Parsed *parsed):
        self.all.counters[N_MESSAGES_RECEIVED] += 1
        if self.text_ping and parsed.size == 4 and parsed.opcode == 1 and memcmp(parsed.data, b"ping", 4) == 0:
            self.reply(connection, 1, b"pong", 4)
            return
        if connection.target != NULL and self.direct:
            self.publish_raw(connection, parsed)
            return
        payload = PyBytes_FromStringAndSize(<char *>parsed.data, <Py_ssize_t>parsed.size)
        try:
            if self.handler.on_message(connection_id(connection), self.session_of(connection), payload, parsed.opcode == 1):
                if connection.state == OPEN:
                    connection.paused |= PAUSED_COMMAND
        except BaseException as error:
            self.failed_callback(connection, error)

    cdef void publish_raw(self, Connection *connection, Parsed *parsed):
        """The way without Python: a raw message to the channel it may be published to, with the engine in this process."""
        cdef Channel *channel = <Channel *>connection.target.channel
        cdef Message message
        cdef uint8_t extra[64]
        cdef size_t where = 0
        cdef int problem = 0
        cdef int64_t offers
        message.channel = channel
        message.payload = parsed.data
        message.size = parsed.size
        message.kind = KIND_TEXT if parsed.opcode == 1 else KIND_BINARY
        if channel.payload == PAYLOAD_JSON and parsed.opcode == 1:
            problem = json_check(parsed.data, parsed.size, self.json_depth, &where)
            if problem:
                self._bad_payload(connection, PROBLEMS[problem][0], where)
                return
            message.kind = KIND_DATA
        elif channel.payload == PAYLOAD_JSON or (channel.payload == PAYLOAD_TEXT and parsed.opcode == 2):
            self._bad_payload(connection, "binary_refused", 0)
            return
        elif channel.payload == PAYLOAD_BINARY and parsed.opcode == 1:
            self._bad_payload(connection, "text_refused", 0)
            return
        if connection.sender != NULL:
            message.extra = <const uint8_t *>PyBytes_AS_STRING(<object>connection.sender)
            message.extra_size = <size_t>PyBytes_GET_SIZE(<object>connection.sender)
        else:
            self.identify(connection)
            memcpy(extra, b',"from":{"session":"', 20)
            _put_identity(extra + 20, connection.identity)
            memcpy(extra + 36, b'"}', 2)
            message.extra = extra
            message.extra_size = 38
        self.all.counters[N_PUBLISHED] += 1
        self.all.counters[N_SEQUENCED] += 1
        offers = self.hub.deliver(&message, NULL)
        if offers < 0:
            self.fail(connection, CAUSE_MEMORY)
            return
        self.offers += <uint64_t>offers

    cdef void _bad_payload(self, Connection *connection, word, size_t where):
        try:
            self.handler.on_bad_payload(connection_id(connection), self.session_of(connection), word, where)
        except BaseException as error:
            self.failed_callback(connection, error)

    cdef void identify(self, Connection *connection) noexcept nogil:
        """Session ids come from the kernel's generator: they must not be guessable."""
        if connection.identified:
            return
        if self.entropy_at + 12 > sizeof(self.entropy):
            getrandom(self.entropy, sizeof(self.entropy), 0)
            self.entropy_at = 0
        memcpy(connection.identity, self.entropy + self.entropy_at, 12)
        self.entropy_at += 12
        connection.identified = 1

    # Verbs. All return False, None or -1 for a connection that is gone.

    cdef Connection *find(self, uint64_t id):
        cdef Connection *connection = table_find(&self.table, id)
        return NULL if connection == NULL or connection.state == DEAD else connection

    cdef bint answer(self, Connection *connection, bytes accept, bytes protocol) except -1:
        cdef bytes head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept
            + (b"\r\n\r\n" if protocol is None else b"\r\nSec-WebSocket-Protocol: " + protocol + b"\r\n\r\n")
        )
        cdef Frame *frame = frame_new(self.all, <size_t>PyBytes_GET_SIZE(head))
        cdef bint queued
        if frame == NULL:
            raise MemoryError
        memcpy(frame.data, PyBytes_AS_STRING(head), <size_t>PyBytes_GET_SIZE(head))
        queued = outbox_push(self.all, &connection.box, frame, NULL)
        frame_release(self.all, frame)
        if not queued:
            raise MemoryError
        self.mark(connection, LANE_CONTROL)
        self.schedule()
        return True

    def open(self, uint64_t conn, bytes accept, bytes protocol, uint8_t format, session=None, bytes sender=None):
        """Answers 101. From now on frames are taken and events may be sent."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL or connection.state != DECIDING:
            return False
        self.answer(connection, accept, protocol)
        connection.state = OPEN
        connection.opened = 1
        connection.state_tick = 0
        connection.box.format = format
        if session is not None:
            Py_INCREF(session)                          # released by bury
            connection.session = <PyObject *>session
        if sender is not None:
            Py_INCREF(sender)                           # released by bury
            connection.sender = <PyObject *>sender
        connection.ping_tick = self.tick + self.jittered(self.timing.ping, self.timing.ping_jitter)
        self.arm(connection)
        self.all.counters[N_OPENED] += 1
        self.all.counters[G_SESSIONS] += 1
        connection.paused &= ~PAUSED_DECISION
        self._unpause(connection)
        return True

    cdef void _unpause(self, Connection *connection):
        if connection.paused or connection.state >= ENDING:
            return
        if connection.stash != NULL:
            self.queue_input(connection)
            self.schedule()
        else:
            self.watch(connection, connection.watched | POLL_IN)

    def hold(self, uint64_t conn, bytes accept, bytes protocol, bytes payload, uint8_t cause, double seconds):
        """A refusal that a page can read: 101 now, Close with `payload` after `seconds`."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL or connection.state != DECIDING:
            return False
        self.answer(connection, accept, protocol)
        connection.held_close = frame_message(self.all, 8, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload))
        connection.state = HELD
        connection.box.closed = 1
        connection.cause = cause
        connection.state_tick = self.tick + <uint32_t>(seconds * 20) + 1
        self.arm(connection)
        self.all.counters[N_REFUSED_CLOSE] += 1
        connection.paused = 0
        self._unpause(connection)
        return True

    def respond(self, uint64_t conn, bytes response, uint8_t cause):
        """Answers an HTTP response, whole as given, and closes."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL or connection.state > DECIDING:
            return False
        if cause != CAUSE_ANSWERED:
            self.all.counters[N_REFUSED_HTTP] += 1
        self._respond(connection, response, cause)
        self.schedule()
        return True

    cdef void _respond(self, Connection *connection, bytes response, uint8_t cause):
        cdef Frame *frame = frame_new(self.all, <size_t>PyBytes_GET_SIZE(response))
        if frame != NULL:
            memcpy(frame.data, PyBytes_AS_STRING(response), <size_t>PyBytes_GET_SIZE(response))
        self.end_with(connection, frame, cause, False)      # without memory for the answer it just ends

    def send(self, uint64_t conn, bytes payload):
        """Queues one text message of our own (an event)."""
        cdef Connection *connection = self.find(conn)
        cdef bint queued
        if connection == NULL or connection.state != OPEN:
            return False
        queued = self.reply(connection, 1, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload))
        self.schedule()
        return queued

    def close(self, uint64_t conn, bytes payload, uint8_t cause):
        """Sends Close (2 bytes of code and a reason, or empty) and ends after the peer's Close or a deadline."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL or (connection.state != OPEN and connection.state != HELD):
            return False
        self.close_with(connection, payload, cause, True)
        self.schedule()
        return True

    def close_all(self, bytes payload, uint8_t cause, bytes response):
        """Closes every session with `payload`, answers every unfinished handshake with `response`; returns how many there were."""
        cdef uint32_t i
        cdef Connection *connection
        closed = 0
        for i in range(self.table.capacity):
            connection = self.table.places[i].connection
            if connection == NULL:
                continue
            if self.close(connection_id(connection), payload, cause) or self.respond(connection_id(connection), response, cause):
                closed += 1
        return closed

    def resume(self, uint64_t conn):
        """The command that on_message said would go on later is done."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL:
            return False
        connection.paused &= ~PAUSED_COMMAND
        self._unpause(connection)
        return True

    def subscribe(self, uint64_t conn, bytes name, uint8_t policy, uint8_t payload, bint receives, bint sends):
        """Joins a channel; a raw connection publishes to the last one it joined with `sends`. False = gone, or joined already."""
        cdef Connection *connection = self.find(conn)
        cdef Subscription *subscription
        cdef Channel *channel
        if connection == NULL or connection.box.closed or connection.state not in (OPEN, DECIDING):
            return False
        channel = self.hub.channel(name, policy, payload)
        if _subscription(connection, channel) != NULL:
            return False
        subscription = subscription_new(&connection.box)
        if subscription == NULL:
            self.hub.untie(channel)
            raise MemoryError
        self.hub.join(channel, &connection.box, subscription, receives)
        subscription.sends = sends
        subscription.next = connection.subscriptions
        connection.subscriptions = subscription
        connection.subscription_count += 1
        if sends and connection.box.format == FORMAT_RAW:
            connection.target = subscription
        return True

    def unsubscribe(self, uint64_t conn, bytes name):
        """Leaves a channel. What is queued of it is still delivered. False = was not subscribed."""
        cdef Connection *connection = self.find(conn)
        cdef Channel *channel = self.hub.find(name)
        cdef Subscription **link
        cdef Subscription *subscription
        if connection == NULL or channel == NULL:
            return False
        link = &connection.subscriptions
        while link[0] != NULL and link[0].channel != <void *>channel:
            link = &link[0].next
        subscription = link[0]
        if subscription == NULL:
            return False
        link[0] = subscription.next
        if connection.target == subscription:
            connection.target = NULL
        connection.subscription_count -= 1
        self.hub.leave(subscription)
        subscription_detach(subscription)
        return True

    def subscriptions(self, uint64_t conn):
        """Names of the channels it receives or publishes to."""
        cdef Connection *connection = self.find(conn)
        cdef Subscription *subscription = NULL if connection == NULL else connection.subscriptions
        names = []
        while subscription != NULL:
            names.append(<object>(<Channel *>subscription.channel).name)
            subscription = subscription.next
        return names

    def publish(self, uint64_t conn, bytes name, uint8_t kind, bytes payload, bytes extra, bint echo):
        """Delivers what a connection published; without `echo` to everyone else. Returns the deliveries caused here."""
        cdef Connection *connection = self.find(conn)
        cdef int64_t offers = self.hub.publish_except(name, kind, payload, extra, NULL if echo or connection == NULL else &connection.box)
        self.offers += <uint64_t>offers
        self.schedule()
        return offers

    def session_id(self, uint64_t conn):
        """16 characters, random; None when it is gone."""
        cdef Connection *connection = self.find(conn)
        cdef uint8_t text[16]
        if connection == NULL:
            return None
        self.identify(connection)
        _put_identity(text, connection.identity)
        return text[:16].decode("ascii")

    def address(self, uint64_t conn):
        """The peer's address, numeric; None when it is gone."""
        cdef Connection *connection = self.find(conn)
        return None if connection == NULL else peer_address(connection.fd)

    def session(self, uint64_t conn):
        """What `open` was given."""
        cdef Connection *connection = self.find(conn)
        return None if connection == NULL else self.session_of(connection)

    def state(self, uint64_t conn):
        """Name of the connection's state; None when it is gone."""
        cdef Connection *connection = self.find(conn)
        return None if connection == NULL else STATES[connection.state]

    # Whole.

    def advance(self, double seconds):
        """Moves time on, for tests of deadlines."""
        self.skew_ns += <uint64_t>(seconds * 1e9)
        self.tell_time()
        self.run_deadlines()
        if self.accept_paused and <int32_t>(self.accept_again_tick - self.tick) <= 0:
            self.resume_accept()
        self.schedule()

    def destroy(self):
        """Ends every connection at once and frees everything. Nothing may be called afterwards."""
        cdef uint32_t i
        cdef Connection *connection
        if self.wheel == NULL:
            return
        self.in_turn = True
        for i in range(self.table.capacity):
            connection = self.table.places[i].connection
            if connection != NULL:
                self.kill(connection, CAUSE_PEER_GONE)
        self.run_pending()
        self.settle()
        self.bury()
        self.hub.transport.owner = NULL
        self._release()

    @property
    def connections(self):
        return self.table.used

    @property
    def accepting(self):
        return self.listener_count > 0 and not self.accept_paused

    @property
    def settled(self):
        """Nothing is left to write or take, as far as the sockets allow."""
        return self.lanes_empty() and self.pending == NULL and self.graves == NULL and self.doomed == NULL


cdef Subscription *_subscription(Connection *connection, Channel *channel) noexcept nogil:
    cdef Subscription *subscription = connection.subscriptions
    while subscription != NULL and subscription.channel != <void *>channel:
        subscription = subscription.next
    return subscription


cdef void _put_identity(uint8_t *out, const uint8_t *identity) noexcept nogil:
    """base64url of 12 bytes: 16 characters, legal in every name rule."""
    cdef int i
    base64_write(out, identity, 12)
    for i in range(16):
        if out[i] == 43:        # +
            out[i] = 45
        elif out[i] == 47:      # /
            out[i] = 95
