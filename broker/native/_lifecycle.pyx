"""Ends of connections: settling, closing, deadlines, graveyard.

Second layer of the reactor. Rules that hold here:

- A connection closes by being marked: it leaves hub and lanes at once (after the fan-out, if one is running: `doom`), while
  closing its socket, freeing it and dropping its Python references happen in one step at the end of the turn (`bury`).
- Python is never called inside a fan-out or a flush.
- Closing finishes a partly written frame, discards the rest, writes Close, then FIN, then waits a bounded time for the peer's end
  before it resets (RFC 6455 7.1.1: unread input would turn close() into a reset that destroys the Close in flight).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t

from broker.native._connection cimport (
    CAUSE_CALLBACK_ERROR, CAUSE_DECISION_TIMEOUT, CAUSE_FULL, CAUSE_HANDSHAKE_TIMEOUT, CAUSE_MEMORY, CAUSE_MESSAGE_TIMEOUT,
    CAUSE_NONE, CAUSE_PEER_GONE, CAUSE_PONG_TIMEOUT, CAUSE_TOO_SLOW, CAUSE_WRITE_TIMEOUT, CLOSING, Connection, DEAD, DECIDING, ENDING,
    HEAD, HELD, MARK_NAMED, MARK_REFUSED, MARK_TOLD, OPEN, connection_id, stash_free, table_remove,
)
from broker.native._counters cimport G_BLOCKED, G_CONNECTIONS, G_REFUSED, G_SESSIONS, N_CALLBACK_ERRORS, N_CLOSED
from broker.native._frames cimport frames_free, frames_held
from broker.native._poller cimport POLL_IN
from broker.native._lane cimport lane_leave
from broker.native._queue cimport (
    Frame, LANE_CONTROL, LANE_SMALL, Outbox, Subscription, TAG_END, TAG_PING, frame_message, frame_release, outbox_discard,
    outbox_free, outbox_push, subscription_detach,
)
from broker.native._socket cimport close_socket, end_writing
from broker.native._wheel cimport Timer, wheel_due, wheel_stop


from broker.native._output cimport Output


cdef class Lifecycle(Output):
    def __cinit__(self, *_, **__):
        self.names = {}

    cdef void settle(self):
        """Decides on every doomed connection. Not inside a fan-out or flush."""
        cdef Connection *connection
        cdef uint8_t doomed
        while self.doomed != NULL:
            connection = self.doomed
            self.doomed = connection.next_doomed
            doomed = connection.doomed
            connection.doomed = 0
            if connection.state == DEAD:
                continue
            if doomed & 2:
                self.kill(connection, CAUSE_PEER_GONE)
            elif connection.end_written:
                self.last_byte_written(connection)
            elif connection.cause == CAUSE_TOO_SLOW or connection.cause == CAUSE_MEMORY:
                self._close_slow(connection)
                self.forget_input(connection)

    cdef void _close_slow(self, Connection *connection):
        cdef uint8_t cause = connection.cause
        payload = self.closes[cause]
        if cause == CAUSE_TOO_SLOW and connection.state == OPEN:
            try:
                payload = self.handler.on_too_slow(connection_id(connection), self.session_of(connection))
                if not isinstance(payload, bytes):
                    raise TypeError("on_too_slow returns a Close payload")
            except BaseException as error:
                self._report(error)
                payload = self.closes[cause]
        if connection.state == OPEN or connection.state == HELD:
            self.close_with(connection, payload, cause, False)
        else:
            self.kill(connection, cause)

    cdef void queue_input(self, Connection *connection):
        """Input that was read already waits for its turn: the intake's."""

    cdef void forget_input(self, Connection *connection):
        """Gives back the memory of input that will not be looked at again. Not while a read pass is using it."""
        if connection.state >= ENDING:
            self.all.physical -= connection.stash_capacity + frames_held(&connection.parser)
            stash_free(connection)
            frames_free(&connection.parser)

    cdef object session_of(self, Connection *connection):
        return None if connection.session == NULL else <object>connection.session

    cdef void leave_channels(self, Connection *connection):
        cdef Subscription *subscription
        connection.target = NULL
        while connection.subscriptions != NULL:
            subscription = connection.subscriptions
            connection.subscriptions = subscription.next
            self.hub.leave(subscription)
            subscription_detach(subscription)
        connection.subscription_count = 0

    cdef void end_with(self, Connection *connection, Frame *last, uint8_t cause, bint wait_for_peer):
        """Discards what is queued, writes `last` (takes over the reference) and ends; with wait_for_peer only after its Close."""
        cdef bint queued = False
        if connection.state >= CLOSING:
            if last != NULL:
                frame_release(self.all, last)
            return
        if connection.cause == CAUSE_NONE:
            connection.cause = cause
        if connection.box.count and connection.box.sequence == 0 and not connection.box.blocked and not connection.box.head_offset:
            self.flush_connection(connection)       # the 101, queued in this very turn: without it a Close is no frame
        self.leave_channels(connection)
        outbox_discard(self.all, &connection.box)
        connection.box.closed = 1
        if last != NULL:
            queued = outbox_push(self.all, &connection.box, last, <Subscription *>TAG_END)
            frame_release(self.all, last)
        if connection.held_close != NULL:
            frame_release(self.all, connection.held_close)
            connection.held_close = NULL
        connection.ping_tick = connection.pong_tick = connection.message_tick = 0
        if not queued:
            self.kill(connection, cause)
            return
        connection.state = CLOSING if wait_for_peer else ENDING
        connection.state_tick = self.tick + self.timing.close
        connection.paused = 0
        if connection.stash != NULL and not wait_for_peer:
            self.all.physical -= connection.stash_capacity
            stash_free(connection)
        if connection.stash != NULL:
            self.queue_input(connection)            # what was read comes before what is still in the socket
        elif not connection.pending:
            self.watch(connection, connection.watched | POLL_IN)
        self.arm(connection)
        self.mark(connection, LANE_CONTROL)

    cdef void close_with(self, Connection *connection, bytes payload, uint8_t cause, bint wait_for_peer):
        self.end_with(connection, frame_message(self.all, 8, <const uint8_t *>PyBytes_AS_STRING(payload), <size_t>PyBytes_GET_SIZE(payload)), cause, wait_for_peer)

    cdef void fail(self, Connection *connection, uint8_t cause):
        """The peer broke a rule or a deadline: a Close with the fixed text of that cause, and its input is not looked at again."""
        if connection.state == OPEN or connection.state == HELD:
            self.close_with(connection, self.closes[cause], cause, False)
        elif connection.state == CLOSING:
            connection.state = ENDING
            if connection.end_written:
                self.last_byte_written(connection)
        elif connection.state < CLOSING:
            self.kill(connection, cause)

    cdef void _report(self, error):
        self.all.counters[N_CALLBACK_ERRORS] += 1
        try:
            self.handler.on_error(error)
        except BaseException:       # the last resort: an error handler that fails must not stop the loop; it is counted
            self.all.counters[N_CALLBACK_ERRORS] += 1

    cdef void failed_callback(self, Connection *connection, object error):
        self._report(error)
        self.fail(connection, CAUSE_CALLBACK_ERROR)

    cdef void last_byte_written(self, Connection *connection):
        """Everything we had to say is with the kernel. FIN now, unless the peer's Close is still due."""
        if connection.state != ENDING:
            return
        end_writing(connection.fd)
        connection.state_tick = self.tick + self.timing.linger
        self.arm(connection)
        if connection.peer_closed and not connection.stash_size:
            self.kill(connection, connection.cause)     # both Closes are through: the server ends first, at once (RFC 6455 7.1.1)

    cdef void kill(self, Connection *connection, uint8_t cause):
        """Out of hub, lanes and wheel now; the rest at the end of the turn. Never inside a fan-out or flush."""
        if connection.state == DEAD:
            return
        if connection.cause == CAUSE_NONE:
            connection.cause = cause
        connection.state = DEAD
        connection.box.closed = 1
        self.leave_channels(connection)
        lane_leave(self.all, &connection.box)
        outbox_free(self.all, &connection.box)
        wheel_stop(self.wheel, &connection.timer)
        if connection.box.blocked:
            self.all.counters[G_BLOCKED] -= 1
        self.all.counters[N_CLOSED + connection.cause] += 1
        self.all.counters[G_CONNECTIONS] -= 1
        if connection.marks & MARK_REFUSED:
            self.all.counters[G_REFUSED] -= 1
        if connection.opened:
            self.all.counters[G_SESSIONS] -= 1
        connection.next_grave = self.graves
        self.graves = connection
        if connection.box.wants_room:
            self.check_room(connection)

    cdef void bury(self):
        """The graveyard step: sockets closed, memory freed, Python references dropped, all at one place and outside of everything."""
        cdef Connection *connection
        cdef Connection *waiting = NULL
        cdef PyObject *session
        while self.graves != NULL:
            connection = self.graves
            self.graves = connection.next_grave
            if connection.session != NULL:
                session = connection.session
                connection.session = NULL
                try:
                    self.handler.on_closed(connection_id(connection), <object>session, connection.cause)
                except BaseException as error:
                    self._report(error)
                Py_DECREF(<object>session)
            if connection.pending or connection.doomed or connection.hungry:     # a list still names it; next turn
                connection.next_grave = waiting
                waiting = connection
                continue
            if connection.sender != NULL:
                Py_DECREF(<object>connection.sender)
            if connection.held_close != NULL:
                frame_release(self.all, connection.held_close)
            self.forget_input(connection)
            if connection.marks & (MARK_NAMED | MARK_TOLD):
                self._forget_name(connection)
            if connection.cause == CAUSE_FULL:
                self.refusing -= 1
            close_socket(connection.fd, connection.reset)
            table_remove(&self.table, connection)
        self.graves = waiting

    cdef void _forget_name(self, Connection *connection):
        name = self.names.pop(connection_id(connection), None)
        if connection.marks & MARK_TOLD:
            try:
                self.handler.on_left(name)
            except BaseException as error:
                self._report(error)

    # Deadlines.

    cdef void run_deadlines(self):
        cdef Timer *timer
        while True:
            timer = wheel_due(self.wheel, self.tick)
            if timer == NULL:
                return
            self.expire(_owner(timer))

    cdef bint _passed(self, uint32_t tick) noexcept nogil:
        return tick != 0 and <int32_t>(tick - self.tick) <= 0

    cdef void expire(self, Connection *connection):
        if self._passed(connection.state_tick):
            self._expire_state(connection)
        if connection.state < CLOSING and self._passed(connection.message_tick):
            connection.message_tick = 0
            self.fail(connection, CAUSE_MESSAGE_TIMEOUT)
        if connection.state < CLOSING and self._passed(connection.pong_tick):
            if connection.paused or connection.pending:
                connection.pong_tick = 0        # we are not reading: its pong may lie in the kernel; the next ping asks again
            else:
                connection.pong_tick = 0
                self.fail(connection, CAUSE_PONG_TIMEOUT)
        if connection.state < CLOSING and self._passed(connection.write_tick):
            connection.write_tick = 0
            self.fail(connection, CAUSE_WRITE_TIMEOUT)
        if connection.state == OPEN and self._passed(connection.ping_tick):
            self._ping(connection)
        if connection.state >= CLOSING:
            connection.write_tick = 0
        self.forget_input(connection)
        if connection.state != DEAD:
            self.arm(connection)

    cdef void _expire_state(self, Connection *connection):
        connection.state_tick = 0
        if connection.state == HEAD:
            self.kill(connection, CAUSE_HANDSHAKE_TIMEOUT)
        elif connection.state == DECIDING:
            self.kill(connection, CAUSE_DECISION_TIMEOUT)
        elif connection.state == HELD:
            last = connection.held_close
            connection.held_close = NULL
            self.end_with(connection, last, connection.cause, True)
        else:
            # Nobody is coming; but what the kernel has of an answer may still arrive, and SO_LINGER 0 would throw it away.
            connection.reset = connection.state == CLOSING or not connection.end_written
            self.kill(connection, connection.cause)

    cdef void _ping(self, Connection *connection):
        connection.ping_tick = self.tick + self.jittered(self.timing.ping, self.timing.ping_jitter)
        if connection.ping_queued or connection.pong_tick:
            return
        if outbox_push(self.all, &connection.box, self.ping_frames[connection.box.format], <Subscription *>TAG_PING):
            connection.ping_queued = 1
            self.mark(connection, LANE_SMALL)


cdef inline Connection *_owner(Timer *timer) noexcept nogil:
    return <Connection *>(<char *>timer - sizeof(Outbox))
