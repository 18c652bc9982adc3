"""Verbs on one connection, and on the subscriptions of a channel: what the rest of the broker calls by id.

Sixth layer of the reactor. They queue and mark, and leave the work to the next flush; each finds its connection anew, because
the id may have outlived it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from broker.native._connection cimport (
    CAUSE_ANSWERED, CAUSE_NONE, CLOSING, Connection, DEAD, DECIDING, HEAD, HELD, MARK_NAMED, MARK_TOLD, OPEN, PAUSED_COMMAND, PAUSED_DECISION, connection_id, table_find,
)
from broker.native._counters cimport CLOSE_CAUSES, G_SESSIONS, H_HANDSHAKE_NS, N_OPENED, N_REFUSED_CLOSE, N_REFUSED_HTTP, PATTERN_MESSAGES, PATTERNS, of_pattern
from broker.native._histogram cimport observe_ns
from broker.native._hub cimport Channel
from broker.native._intake cimport put_identity
from broker.native._linked cimport Linked
from broker.native._queue cimport (
    FORMAT_JSON, FORMAT_RAW, Frame, LANE_CONTROL, LANE_SMALL, Outbox, Subscription, frame_message, frame_new, frame_release, missed_unknown,
    outbox_gap, outbox_push, subscription_detach, subscription_new,
)
from broker.native._socket cimport SOCKET_AGAIN, peek, peer_address

STATES = ("head", "deciding", "open", "held", "closing", "ending", "dead")


cdef class Verbs(Linked):
    # All return False, None or -1 for a connection that is gone.

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

    def open(self, uint64_t conn, bytes accept not None, bytes protocol, uint8_t format, session=None, bytes sender=None):
        """Answers 101. From now on frames are taken and events may be sent."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL or connection.state != DECIDING:
            return False
        self.answer(connection, accept, protocol)
        connection.state = OPEN
        connection.opened = 1
        connection.state_tick = 0
        observe_ns(&self.all.counters[H_HANDSHAKE_NS], self.now_ns() - connection.messages_full_at_ns)
        connection.messages_full_at_ns = 0
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

    def hold(self, uint64_t conn, bytes accept not None, bytes protocol, bytes payload not None, uint8_t cause, double seconds):
        """A refusal that a page can read: 101 now, Close with `payload` after `seconds`."""
        cdef Connection *connection = self.find(conn)
        _check_cause(cause)
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

    def close_later(self, uint64_t conn, bytes payload not None, uint8_t cause, double seconds):
        """A Close with `payload` after `seconds`. Until then the session hears nothing more: what is queued still goes, and
        whatever it says is thrown away. For ends of many at once, which would come back at once.
        """
        cdef Connection *connection = self.find(conn)
        cdef Frame *last
        _check_cause(cause)
        if connection == NULL or connection.state != OPEN:
            return False
        last = frame_message(self.all, 8, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload))
        if last == NULL:
            raise MemoryError
        self.leave_channels(connection)
        connection.held_close = last
        connection.state = HELD
        connection.box.closed = 1
        if connection.cause == CAUSE_NONE:
            connection.cause = cause
        connection.ping_tick = connection.pong_tick = connection.message_tick = 0
        connection.state_tick = self.tick + <uint32_t>(seconds * 20) + 1
        self.arm(connection)
        connection.paused = 0
        self._unpause(connection)
        self.schedule()
        return True

    def respond(self, uint64_t conn, bytes response not None, uint8_t cause):
        """Answers an HTTP response, whole as given, and closes."""
        cdef Connection *connection = self.find(conn)
        _check_cause(cause)
        if connection == NULL or connection.state > DECIDING:
            return False
        if cause != CAUSE_ANSWERED:
            self.all.counters[N_REFUSED_HTTP] += 1
        self._respond(connection, response, cause)
        self.schedule()
        return True

    def send(self, uint64_t conn, bytes payload not None):
        """Queues one text message of our own (an event)."""
        cdef Connection *connection = self.find(conn)
        cdef bint queued
        if connection == NULL or connection.state != OPEN:
            return False
        queued = self.reply(connection, 1, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload))
        self.schedule()
        return queued

    def close(self, uint64_t conn, bytes payload not None, uint8_t cause):
        """Sends Close (2 bytes of code and a reason, or empty) and ends after the peer's Close or a deadline."""
        cdef Connection *connection = self.find(conn)
        _check_cause(cause)
        if connection == NULL or (connection.state != OPEN and connection.state != HELD):
            return False
        self.close_with(connection, payload, cause, True)
        self.schedule()
        return True

    def close_after(self, uint64_t conn, bytes event not None, bytes payload not None, uint8_t cause):
        """Like close, for a session that is not to lose what is queued: as far as it takes it that goes first, then, in one
        write with the Close, `event` if its format is JSON.
        """
        cdef Connection *connection = self.find(conn)
        cdef Frame *last
        _check_cause(cause)
        if connection == NULL or connection.state != OPEN:
            return False
        data = _short_frame(8, payload)
        if connection.box.format == FORMAT_JSON:
            data = _short_frame(1, event) + data        # a Close takes the place of whatever is queued: they go as one
        while connection.box.count and not connection.box.blocked and not connection.box.closed:
            self.flush_connection(connection)
        last = frame_new(self.all, <size_t>PyBytes_GET_SIZE(data))
        if last != NULL:
            memcpy(last.data, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        self.end_with(connection, last, cause, True)
        self.schedule()
        return True

    def turn_away(self, uint64_t conn, bytes response not None, uint8_t cause):
        """Ends an unfinished handshake with `response`; without, if its client has sent nothing (a browser opens connections in
        advance, and would take the answer for one to its next request).
        """
        cdef Connection *connection = self.find(conn)
        _check_cause(cause)
        if connection == NULL or connection.state != HEAD or connection.stash != NULL or peek(connection.fd) != SOCKET_AGAIN:
            return self.respond(conn, response, cause)
        self.kill(connection, cause)
        self.schedule()
        return True

    def ids(self, uint32_t first, uint32_t most):
        """Ids of the connections that are not ending already, in `most` places of the table from `first` on: a page of them, because
        a hundred thousand at once would hold the turn.
        """
        cdef uint32_t i
        cdef Connection *connection
        found = []
        for i in range(min(first, self.table.capacity), min(<uint64_t>first + most, self.table.capacity)):
            connection = self.table.places[i].connection
            if connection != NULL and connection.state < CLOSING:
                found.append(connection_id(connection))
        return found

    @property
    def places(self):
        return self.table.capacity

    def close_all(self, bytes payload not None, uint8_t cause, bytes response not None):
        """Closes every session with `payload`, answers every unfinished handshake with `response`; returns how many there were."""
        cdef uint32_t i
        cdef Connection *connection
        closed = 0
        for i in range(self.table.capacity):
            connection = self.table.places[i].connection
            if connection == NULL:
                continue
            if self.close(connection_id(connection), payload, cause) or self.turn_away(connection_id(connection), response, cause):
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

    def subscribe(self, uint64_t conn, bytes name not None, uint8_t policy, uint8_t payload, bint receives, bint sends, uint8_t pattern=0):
        """Joins a channel, which is made with these settings if it is new; a raw connection publishes to the last one it joined with `sends`. False = gone, or joined already."""
        cdef Connection *connection = self.find(conn)
        cdef Subscription *subscription
        cdef Channel *channel
        if connection == NULL or connection.box.closed or connection.state != OPEN:
            return False
        channel = self.hub.channel(name, policy, payload, pattern)
        if _subscription(connection, channel) != NULL:
            return False
        subscription = subscription_new(&connection.box)
        if subscription == NULL:
            self.hub.untie(channel)
            raise MemoryError
        try:
            self.hub.join(channel, &connection.box, subscription, receives)
        except MemoryError:
            subscription_detach(subscription)
            self.hub.untie(channel)
            raise
        subscription.sends = sends
        subscription.next = connection.subscriptions
        connection.subscriptions = subscription
        connection.subscription_count += 1
        if sends and connection.box.format == FORMAT_RAW:
            connection.target = subscription
        return True

    def unsubscribe(self, uint64_t conn, bytes name not None):
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

    def count_message(self, uint8_t pattern):
        """A message was accepted in a channel of this pattern by the Python side."""
        if pattern >= PATTERNS:
            raise ValueError(f"pattern {pattern}: there are {PATTERNS} places")
        of_pattern(self.all.counters, pattern)[PATTERN_MESSAGES] += 1

    def subscribers(self, bytes name not None):
        """Receiving subscriptions of a channel on this worker."""
        return self.hub.subscribers(name)

    def publish(self, uint64_t conn, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None, bint echo):
        """Delivers what a connection published; without `echo` to everyone else. Returns the deliveries caused here."""
        cdef Connection *connection = self.find(conn)
        cdef int64_t offers
        self.hub.count_published()
        offers = self.hub.publish_except(name, kind, payload, extra, NULL if echo or connection == NULL else &connection.box, 0, 0)
        self.offers += <uint64_t>offers
        self.schedule()
        return offers

    def tell(self, bytes name not None, bytes payload not None):
        """Queues one event for every JSON subscription of a channel; returns how many took it."""
        told = self.hub.tell(name, payload)
        self.schedule()
        return told

    def missed(self, bytes name not None, count):
        """Queues a gap notice for every JSON subscription of a channel; None = nobody knows how many. Returns the others."""
        cdef Channel *channel = self.hub.find(name)
        cdef uint64_t missed = missed_unknown() if count is None else count
        cdef uint32_t i
        cdef Outbox *box
        raw = []
        if channel == NULL:
            return raw
        for i in range(channel.count):
            box = channel.entries[i].outbox
            if box.closed:
                continue
            if box.format == FORMAT_RAW:
                raw.append(connection_id(<Connection *>box))
                continue
            outbox_gap(self.all, box, channel.entries[i].subscription, missed)
            self.mark(<Connection *>box, LANE_SMALL)
        self.schedule()
        return raw

    def session_id(self, uint64_t conn):
        """16 characters, random; None when it is gone."""
        cdef Connection *connection = self.find(conn)
        cdef uint8_t text[16]
        if connection == NULL:
            return None
        self.identify(connection)
        put_identity(text, connection.identity)
        return text[:16].decode("ascii")

    def address(self, uint64_t conn):
        """The client's address, numeric: what `name` said, else the peer's; None when it is gone."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL:
            return None
        return self.names[conn] if connection.marks & MARK_NAMED else peer_address(connection.fd)

    def name(self, uint64_t conn, str address not None, bint told):
        """The client's address is this one; `told`: on_left is given it when the connection ends. Costs memory, unlike the peer's own."""
        cdef Connection *connection = self.find(conn)
        if connection == NULL:
            return False
        self.names[conn] = address                      # until _forget_name
        connection.marks |= MARK_NAMED | MARK_TOLD if told else MARK_NAMED
        return True

    @property
    def now_ns_since_start(self):
        """The reactor's clock, for whoever's deadlines have to agree with its own."""
        return self.now_ns() - self.started_ns

    def session(self, uint64_t conn):
        """What `open` was given."""
        cdef Connection *connection = self.find(conn)
        return None if connection == NULL else self.session_of(connection)

    def state(self, uint64_t conn):
        """Name of the connection's state; None when it is gone."""
        cdef Connection *connection = self.find(conn)
        return None if connection == NULL else STATES[connection.state]


cdef Subscription *_subscription(Connection *connection, Channel *channel) noexcept nogil:
    cdef Subscription *subscription = connection.subscriptions
    while subscription != NULL and subscription.channel != <void *>channel:
        subscription = subscription.next
    return subscription


cdef bytes _short_frame(int opcode, bytes payload):
    if len(payload) > 125:
        raise ValueError(f"{len(payload)} bytes: a Close, and what goes with it, has at most 125")
    return bytes((0x80 | opcode, len(payload))) + payload


cdef int _check_cause(uint8_t cause) except -1:
    """A cause is an index into the counters."""
    if cause >= CLOSE_CAUSES:
        raise ValueError(f"cause {cause}: there are {CLOSE_CAUSES}")
    return 0
