"""Input: reading, request heads, frames, and the budget that keeps one publisher from holding the turn.

Fourth layer of the reactor. Input is read into one buffer. A read pass takes so many messages and causes so many deliveries at most;
the rest is copied to the connection, which joins the pending list: bytes in user space are never reported again by the kernel.
Each call into Python is caught per connection. A callback may close, publish or unsubscribe anything: after it the connection's
state is looked at again, and nothing of a stash is touched that may have been freed.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcmp, memcpy
from posix.unistd cimport read

from broker.native._accept cimport Acceptor
from broker.native._connection cimport (
    CAUSE_MEMORY, CAUSE_PEER_CLOSED, CAUSE_PEER_GONE, CAUSE_PROTOCOL, CAUSE_RATE, CLOSING, Connection, DEAD, DECIDING, ENDING, HEAD,
    MARK_PROXY, OPEN, PAUSED_COMMAND, PAUSED_CREDIT, PAUSED_DECISION, connection_id, stash_append, stash_free,
)
from broker.native._counters cimport (
    N_BYTES_READ, N_INPUT_PAUSES, N_MESSAGES_DISCARDED, N_MESSAGES_RECEIVED, N_PUBLISHED, N_RATE_LIMITED, N_RECEIVED_BYTES_RAW,
    N_RECEIVED_RAW, N_REQUESTS, N_SEQUENCED, PATTERN_MESSAGES, of_pattern,
)
from broker.native._frames cimport (
    FRAME_CLOSE, FRAME_FAILED, FRAME_MESSAGE, FRAME_NEED_MORE, FRAME_PING, FRAME_PONG, Parsed, frames_free, frames_held, frames_in_message,
    frames_next,
)
from broker.native._hub cimport (
    Channel, Hub, KIND_BINARY, KIND_DATA, KIND_TEXT, Message, PAYLOAD_BINARY, PAYLOAD_JSON, PAYLOAD_TEXT,
)
from broker.native._json cimport base64_write, json_check
from broker.native._json import PROBLEMS
from broker.native._poller cimport POLL_IN
from broker.native._queue cimport Frame, LANE_CONTROL, frame_message, outbox_set_pong
from broker.native._rate cimport rate_set, rate_take
from broker.native._request cimport Request, request_end, request_parse
from broker.native._socket cimport SOCKET_AGAIN, peek, read_some


cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags)

cdef uint32_t LONGEST_HEADER = 14        # of a frame: RFC 6455 5.2
cdef uint64_t TURN_NS = 5000000         # a turn reads no further after this long: the rest is reported again, or waits its turn


cdef class Intake(Acceptor):
    def __cinit__(self, Hub hub, handler, closes, call_soon, *, uint32_t max_head_bytes, uint32_t max_headers,
                  uint64_t max_message_bytes, uint32_t max_fragments, int max_json_depth, uint32_t read_pass_bytes,
                  uint32_t read_pass_messages, uint64_t read_pass_offers, bint text_ping=True, uint32_t messages_per_second=0,
                  uint32_t message_burst=0, uint32_t bytes_per_second=0, uint32_t byte_burst=0, **_):
        self.call_soon = call_soon
        self.pass_messages = read_pass_messages
        self.pass_offers = read_pass_offers
        self.json_depth = max_json_depth
        self.text_ping = text_ping
        self._direct = True
        rate_set(&self.message_rate, messages_per_second, message_burst)
        rate_set(&self.byte_rate, bytes_per_second, <uint64_t>byte_burst + LONGEST_HEADER)     # so that the largest message fits
        self.frame_limits.max_message_bytes = max_message_bytes
        self.frame_limits.max_fragments = max_fragments
        self.request_limits.max_head_bytes = max_head_bytes
        self.request_limits.max_headers = max_headers
        self.entropy_at = sizeof(self.entropy)
        self.read_bytes = read_pass_bytes
        self.input = <uint8_t *>malloc(self.read_bytes)          # freed by __dealloc__
        if self.input == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.input)

    cdef void schedule(self):
        """Asks the loop for a turn, once, unless one is running."""
        if not self.in_turn and not self.scheduled:
            self.scheduled = True
            self.call_soon(self.turn_method)

    # Reading.

    cdef void readable(self, Connection *connection):
        cdef ssize_t got
        if connection.paused or connection.pending:
            if self._left_while_waiting(connection):
                self.kill(connection, CAUSE_PEER_GONE)
            else:
                self.watch(connection, connection.watched & ~POLL_IN)
            return
        got = read_some(connection.fd, self.input, self.read_bytes)
        if got == SOCKET_AGAIN:
            return
        if got == 0 and connection.state == ENDING and not connection.end_written:
            connection.peer_closed = 1          # it half-closed (nc -N, some health checks): our last bytes still go
            self.watch(connection, connection.watched & ~POLL_IN)
            return
        if got <= 0:
            self.kill(connection, CAUSE_PEER_GONE)
            return
        self.all.counters[N_BYTES_READ] += <uint64_t>got
        if connection.pong_tick:
            connection.pong_tick = 0        # any byte is life
        self.receive(connection, self.input, <size_t>got)

    cdef bint _left_while_waiting(self, Connection *connection) noexcept nogil:
        """Whether the peer has ended its side while its decision or command waits, and nothing it sent before is still to be done.

        Before a session only a page is taken for gone: others half-close and still read an answer in HTTP (nc -N).
        """
        if connection.stash != NULL or not connection.paused or (connection.state != OPEN and not connection.page):
            return False
        return peek(connection.fd) == 0

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
        if not stash_append(connection, data, size, 2 * <size_t>self.read_bytes):
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
        """Gives connections with waiting input one pass each, while the turn lasts. Whoever still has some joins the end of the list."""
        cdef Connection *last = self.pending_last
        cdef Connection *connection = NULL
        while self.pending != NULL and connection != last and not self.turn_is_over():
            connection = self.pending
            self.pending = connection.next_pending
            if self.pending == NULL:
                self.pending_last = NULL
            connection.pending = 0
            if connection.state != DEAD:
                self.take_stash(connection)

    cdef bint turn_is_over(self) noexcept nogil:
        """Whether this turn has worked for TURN_NS. Looks at the clock only after some work: 64 messages or 4096 deliveries."""
        if self.work - self.work_timed > 64:
            self.work_timed = self.work
            self.turn_over = self.now_ns() - self.turn_started >= TURN_NS
        return self.turn_over

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
        cdef uint32_t before, scanned = 0
        cdef long end
        cdef Request request
        if connection.marks & MARK_PROXY and not self.take_proxy(connection, &data, &size):
            return
        before = connection.stash_capacity
        if connection.stash != NULL:
            scanned = connection.stash_at
            if not stash_append(connection, data, size, self.request_limits.max_head_bytes + self.read_bytes):
                self.kill(connection, CAUSE_MEMORY)
                return
            self.all.physical += connection.stash_capacity - before
            data = connection.stash
            size = connection.stash_size
        end = request_end(data, size, &self.request_limits, &scanned)
        if end == 0:
            if connection.stash == NULL:
                if not stash_append(connection, data, size, self.read_bytes):
                    self.kill(connection, CAUSE_MEMORY)
                    return
                self.all.physical += connection.stash_capacity
            connection.stash_at = scanned
            return
        connection.state = DECIDING
        connection.paused = PAUSED_DECISION
        self.all.counters[N_REQUESTS] += 1
        if end < 0:
            head_only = size >= 5 and memcmp(data, b"HEAD ", 5) == 0
            self._release_stash(connection)
            try:
                self.handler.on_malformed(connection_id(connection), -end, head_only)
            except BaseException as error:
                self.failed_callback(connection, error)
            return
        try:
            request = request_parse(data, <size_t>end, &self.request_limits)
        except BaseException as error:
            self.failed_callback(connection, error)
            return
        connection.page = request.origin is not None
        # What follows the head in the same read are frames (RFC 6455 4.2.2: the client may send after the 101; some do before).
        if connection.stash != NULL:
            connection.stash_at = <uint32_t>end
            if connection.stash_at == connection.stash_size:
                self._release_stash(connection)
        elif <size_t>end < size:
            if not stash_append(connection, data + end, size - <size_t>end, self.read_bytes):
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
        cdef uint64_t offers = self.offers
        cdef uint64_t most_offers = offers + self.pass_offers
        cdef int event
        while at < size:
            if messages >= self.pass_messages or self.offers >= most_offers or connection.paused or connection.state >= ENDING or connection.doomed:
                break
            if self.publish_blocked and connection.target != NULL:
                connection.paused |= PAUSED_CREDIT
                break
            held = frames_held(&connection.parser)
            event = frames_next(&connection.parser, &self.frame_limits, data + at, size - at, &used, &parsed)
            self.all.physical += frames_held(&connection.parser) - held
            at += used
            if event == FRAME_NEED_MORE:
                break
            if (event == FRAME_MESSAGE or event == FRAME_PING or event == FRAME_PONG) and not self._within_rate(connection, parsed.frames, 0):
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
        self.work += 1 + messages + (self.offers - offers) // 64
        self._within_rate(connection, 0, at)
        held = frames_held(&connection.parser)
        if held and not frames_in_message(&connection.parser):
            frames_next(&connection.parser, &self.frame_limits, data + at, 0, &used, &parsed)     # gives back the message just handled
            self.all.physical += frames_held(&connection.parser) - held
        if frames_in_message(&connection.parser):
            # A busy publisher's read always ends inside some message: the deadline is of that one, not of the first ever cut.
            if (connection.message_tick == 0 or messages) and connection.state < CLOSING:
                connection.message_tick = self.tick + self.timing.message
                self.arm(connection)
        else:
            connection.message_tick = 0
        self._forget_parser(connection)
        if self.all.physical > self.hub.memory_bytes:
            self.relieve()
        return at

    cdef bint _within_rate(self, Connection *connection, uint64_t frames, uint64_t bytes):
        """Takes from the connection's buckets, by the time of the turn: a clock for each message would cost more than the bucket. What is
        given up is whoever sends, not what was sent before. Bytes are taken when a pass is over, so it may exceed by its length.
        """
        if connection.state != OPEN:        # what arrives after the end is thrown away, and bounded by deadlines
            return True
        if rate_take(&self.message_rate, &connection.messages_full_at_ns, frames, self.turn_started) and rate_take(
            &self.byte_rate, &connection.bytes_full_at_ns, bytes, self.turn_started
        ):
            return True
        self.all.counters[N_RATE_LIMITED] += 1
        self.fail(connection, CAUSE_RATE)
        return False

    cdef void _forget_parser(self, Connection *connection):
        """What forget_input does, but for the stash, which the caller of `take` may be reading."""
        if connection.state >= ENDING:
            self.all.physical -= frames_held(&connection.parser)
            frames_free(&connection.parser)

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
        self.all.counters[N_RECEIVED_RAW + connection.box.format] += 1
        self.all.counters[N_RECEIVED_BYTES_RAW + connection.box.format] += parsed.size
        if self.text_ping and parsed.size == 4 and parsed.opcode == 1 and memcmp(parsed.data, b"ping", 4) == 0:
            self.reply(connection, 1, b"pong", 4)
            return
        if connection.target != NULL and self._direct:
            self.publish_raw(connection, parsed)
            return
        try:
            payload = PyBytes_FromStringAndSize(<char *>parsed.data, <Py_ssize_t>parsed.size)
            if self.handler.on_message(connection_id(connection), self.session_of(connection), payload, parsed.opcode == 1):
                if connection.state == OPEN:
                    connection.paused |= PAUSED_COMMAND
        except BaseException as error:
            self.failed_callback(connection, error)

    cdef void publish_raw(self, Connection *connection, Parsed *parsed):
        """The way without Python: a raw message to the channel it may be published to, or to the link that leads to its engine."""
        cdef Channel *channel = <Channel *>connection.target.channel
        cdef Message message
        cdef uint8_t extra[64]
        cdef size_t where = 0
        cdef int problem = 0
        message.channel = channel
        message.payload = parsed.data
        message.size = parsed.size
        message.offset = message.time_ms = 0
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
            put_identity(extra + 20, connection.identity)
            memcpy(extra + 36, b'"}', 2)
            message.extra = extra
            message.extra_size = 38
        self.forward(connection, &message)

    cdef void forward(self, Connection *connection, Message *message):
        """With the engine in this process a message is sequenced by being next."""
        self.all.counters[N_PUBLISHED] += 1
        self.all.counters[N_SEQUENCED] += 1
        of_pattern(self.all.counters, message.channel.pattern)[PATTERN_MESSAGES] += 1
        self.offers += <uint64_t>self.hub.deliver(message, NULL)

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
            self.entropy_at = 0
            while self.entropy_at < sizeof(self.entropy):       # up to 256 bytes are never cut short by a signal (getrandom(2))
                if getrandom(self.entropy + self.entropy_at, 240, 0) != 240:
                    abort()         # no kernel refuses this; ids that repeat would be worse than an end
                self.entropy_at += 240
            self.entropy_at = 0
        memcpy(connection.identity, self.entropy + self.entropy_at, 12)
        self.entropy_at += 12
        connection.identified = 1

    cdef void _unpause(self, Connection *connection):
        if connection.paused or connection.state >= ENDING:
            return
        if connection.stash != NULL:
            self.queue_input(connection)
            self.schedule()
        else:
            self.watch(connection, connection.watched | POLL_IN)


cdef void put_identity(uint8_t *out, const uint8_t *identity) noexcept nogil:
    cdef int i
    base64_write(out, identity, 12)
    for i in range(16):
        if out[i] == 43:        # +
            out[i] = 45
        elif out[i] == 47:      # /
            out[i] = 95
