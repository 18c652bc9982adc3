"""The reactor of one worker: every client socket, behind one file descriptor of the event loop.

Theory of operation. The loop calls `turn` when the poller's fd is readable, or by call_soon when work was left over. A turn runs
the input that waits, polls up to four times or 1 ms (so that accept and request of one client share a turn), then flushes what all
of that queued: one write a connection. Then come deadlines, connections whose queue overflowed, and the graveyard.

The layers below it: _output writes, _lifecycle ends, _intake accepts and reads. Here are the turn, and the verbs that the rest of
the broker calls; they queue and mark, and leave the work to the next flush. `turn` never raises, because the loop would call a raising reader for ever.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.string cimport memset
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from posix.unistd cimport close, read

from broker.native._connection cimport (
    CAUSE_ANSWERED, CAUSE_PEER_GONE, Connection, DEAD, DECIDING, HELD, OPEN, PAUSED_COMMAND, PAUSED_DECISION,
    connection_id, table_find,
)
from broker.native._counters cimport CLOSE_CAUSES, G_MEMORY_BYTES, G_SESSIONS, N_OPENED, N_REFUSED_CLOSE, N_REFUSED_HTTP
from broker.native._hub cimport Channel, Hub, Transport
from broker.native._json import PROBLEMS
from broker.native._intake cimport Intake, MOST_LISTENERS, TAG_LISTENER, put_identity
from broker.native._poller cimport Event, POLL_GONE, POLL_IN, POLL_OUT, WATCH_ADD, WATCH_REMOVE, poller_wait, poller_watch
from broker.native._queue cimport (
    FORMAT_RAW, Frame, LANE_CONTROL, Subscription, frame_message, frame_new, frame_release, outbox_push,
    subscription_detach, subscription_new,
)
from broker.native._socket cimport peer_address, prepare_listener


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

cdef extern from "<malloc.h>" nogil:
    int mallopt(int parameter, int value)
    enum:
        M_MMAP_THRESHOLD
        M_TRIM_THRESHOLD

cdef int POLLS = 4
cdef uint32_t DEADLINES_AFTER_TURNS = 64     # an overload that never ends must not put deadlines off for ever
cdef uint64_t POLLS_NS = 1000000
STATES = ("head", "deciding", "open", "held", "closing", "ending", "dead")


cdef class Reactor(Intake):
    def __cinit__(self, Hub hub, handler, closes, call_soon, **_):
        cdef itimerspec every
        # Fixed, so that glibc does not raise them by itself and memory of a peak goes back to the system (mallopt(3)).
        mallopt(M_MMAP_THRESHOLD, 256 * 1024)
        mallopt(M_TRIM_THRESHOLD, 256 * 1024)
        self.call_soon = call_soon
        self.tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        every.it_interval.tv_sec = every.it_value.tv_sec = 0
        every.it_interval.tv_nsec = every.it_value.tv_nsec = 50000000       # one tick of the wheel
        if self.tick_fd < 0 or timerfd_settime(self.tick_fd, 0, &every, NULL) or poller_watch(self.poller, WATCH_ADD, self.tick_fd, POLL_IN, TAG_TICK):
            raise OSError("timerfd")

    def __init__(self, *args, **kwargs):
        self.turn_method = self.turn

    def __dealloc__(self):
        if self.tick_fd > 0:
            close(self.tick_fd)

    # The loop's side.

    def fileno(self):
        """The poller's fd: readable when any socket has something to do."""
        return self.poller

    def turn(self):
        """One turn; see the module. Never raises."""
        if self.wheel == NULL:
            return      # destroyed after it was scheduled
        if self.in_turn:
            return
        self.scheduled = False
        self.in_turn = True
        try:
            self._turn()
        except BaseException as error:      # cannot come from a connection: those are caught one by one
            self._report(error)
        self.in_turn = False
        if self.pending != NULL or self.doomed != NULL or self.graves != NULL or not self.lanes_empty():
            self.schedule()

    cdef void _turn(self):
        cdef Event events[EVENTS]
        cdef Connection *connection
        cdef uint64_t tag, ticks
        cdef int i, n, found, polls = 0
        cdef bint accepted, skipped = False
        self.turn_started = self.now_ns()
        self.turn_over = False
        self.tick = <uint32_t>((self.turn_started - self.started_ns) // 50000000) + 1
        self.run_pending()
        self.turn_started = self.now_ns()       # the sockets get as long as what waited had, or they would starve behind it
        self.turn_over = False
        while polls < POLLS:
            polls += 1
            accepted = False
            found = poller_wait(self.poller, events, EVENTS, 0)
            for n in range(found):
                i = (n + self.first_event) % found
                tag = events[i].data.u64
                if tag >> 32 == 0:
                    if tag == TAG_TICK:
                        read(self.tick_fd, &ticks, sizeof(ticks))
                        self.ticked = True
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
                    if self.turn_is_over():     # reported again; the next turn begins here, as the order of events does not change
                        if not skipped:
                            self.first_event = <uint32_t>i
                        skipped = True
                    elif connection.paused and events[i].events & POLL_GONE:
                        self.kill(connection, CAUSE_PEER_GONE)      # reset while we were not reading
                    else:
                        self.readable(connection)
            if skipped or (not accepted and found < EVENTS):
                break       # nothing that would be followed at once by more of its own
            if self.now_ns() - self.turn_started > POLLS_NS:
                break
        self.flush_slice()
        if self.ticked:
            self.ticked_turns += 1
        # After a stall the answers of thousands lie unread: nobody is late before all that was there has been read.
        if self.ticked and ((found < EVENTS and not skipped) or self.ticked_turns > DEADLINES_AFTER_TURNS):
            self.ticked = False
            self.ticked_turns = 0
            self.run_deadlines()
            if self.accept_paused and <int32_t>(self.accept_again_tick - self.tick) <= 0:
                self.resume_accept()
        self._end_turn()

    cdef void _end_turn(self):
        self.input_evicted = False
        self.relieved_in_vain = False
        if self.all.physical > self.hub.memory_bytes:
            self.relieve()          # request heads and what was kept aside grow without asking
        self.settle()
        if self.graves != NULL:
            self.bury()
        self.all.counters[G_MEMORY_BYTES] = self.all.physical

    # Listeners.

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
        cdef bint in_turn = self.in_turn
        self.in_turn = True     # a callback may not make a turn either: it would free what accept_some is reading for
        for i in range(self.listener_count):
            while not in_turn and self.accept_some(self.listeners[i]):
                pass
            poller_watch(self.poller, WATCH_REMOVE, self.listeners[i], 0, 0)
        self.in_turn = in_turn
        self.listener_count = 0
        self.schedule()

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

    def open(self, uint64_t conn, bytes accept not None, bytes protocol, uint8_t format, session=None, bytes sender=None):
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

    def close_all(self, bytes payload not None, uint8_t cause, bytes response not None):
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

    def subscribe(self, uint64_t conn, bytes name not None, uint8_t policy, uint8_t payload, bint receives, bint sends):
        """Joins a channel; a raw connection publishes to the last one it joined with `sends`. False = gone, or joined already."""
        cdef Connection *connection = self.find(conn)
        cdef Subscription *subscription
        cdef Channel *channel
        if connection == NULL or connection.box.closed or connection.state != OPEN:
            return False
        channel = self.hub.channel(name, policy, payload)
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

    def publish(self, uint64_t conn, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None, bint echo):
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
        put_identity(text, connection.identity)
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

    def report(self, error):
        """What the handler could not raise, because it happened after an await: counted and given to on_error like the rest."""
        self._report(error)

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
        if self.in_turn:
            raise RuntimeError("destroy inside a turn")
        if self.wheel == NULL:
            return
        self.in_turn = True
        for i in range(self.table.capacity):
            connection = self.table.places[i].connection
            if connection != NULL:
                self.kill(connection, CAUSE_PEER_GONE)
        while self.pending != NULL:
            self.turn_over = False
            self.run_pending()
        self.settle()
        self.bury()
        if self.hub.transport.owner == <void *>self:
            memset(&self.hub.transport, 0, sizeof(Transport))   # a hub that outlives us only queues
        self._release()
        close(self.tick_fd)
        self.tick_fd = -1

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


cdef int _check_cause(uint8_t cause) except -1:
    """A cause is an index into the counters."""
    if cause >= CLOSE_CAUSES:
        raise ValueError(f"cause {cause}: there are {CLOSE_CAUSES}")
    return 0
