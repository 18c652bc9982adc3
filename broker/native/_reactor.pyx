"""The reactor of one worker: every client socket, behind one file descriptor of the event loop.

Theory of operation. The loop calls `turn` when the poller's fd is readable, or by call_soon when work was left over. A turn runs
the input that waits, polls up to four times or 1 ms (so that accept and request of one client share a turn), then flushes what all
of that queued: one write a connection. Then come deadlines, connections whose queue overflowed, and the graveyard.

The layers below it: _output writes, _lifecycle ends, _accept accepts, _intake reads, _linked leads to an engine elsewhere, _verbs and _replay are what the rest of the
broker calls. Here is the turn. It never raises, because the loop would call a raising reader for ever.
"""

from libc.string cimport memset
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.unistd cimport close, read

from broker.native._accept cimport MOST_LISTENERS, TAG_LISTENER
from broker.native._connection cimport CAUSE_PEER_GONE, Connection, DEAD, connection_id, table_find
from broker.native._counters cimport G_MEMORY_BYTES, N_ACCEPTED, N_SIBLING_ACCEPTS
from broker.native._hub cimport Hub, Transport
from broker.native._linked cimport TAG_LINK
from broker.native._poller cimport Event, POLL_GONE, POLL_IN, POLL_OUT, WATCH_ADD, WATCH_REMOVE, poller_wait, poller_watch
from broker.native._socket cimport prepare_listener
from broker.native._replay cimport Replaying


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


cdef class Reactor(Replaying):
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
        if self.pending != NULL or self.doomed != NULL or self.graves != NULL or self.hungry != NULL or not self.lanes_empty() or self.link_left or self.link_waits():
            self.schedule()

    cdef void _turn(self):
        cdef Event events[EVENTS]
        cdef Connection *connection
        cdef uint64_t tag, ticks
        cdef int i, n, found, polls = 0
        cdef bint accepted, skipped = False
        self.turn_started = self.all.now_ns = self.now_ns()
        self.turn_over = False
        self.tick = <uint32_t>((self.turn_started - self.started_ns) // 50000000) + 1
        if self.link_left:
            self.take_link()
            self.turn_started = self.all.now_ns = self.now_ns()   # likewise: fan-outs that never end must not starve input that waits
            self.turn_over = False
        self.run_pending()
        self.turn_started = self.all.now_ns = self.now_ns()       # the sockets get as long as what waited had, or they would starve behind it
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
                    elif tag == TAG_LINK:
                        self.link_ready(events[i].events & (POLL_IN | POLL_GONE) != 0)
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
        self.flush_link()       # first, so that the engine works while we write to clients
        self.flush_slice()
        if self.ticked:
            self.ticked_turns += 1
        # After a stall the answers of thousands lie unread: nobody is late before all that was there has been read.
        if self.ticked and ((found < EVENTS and not skipped) or self.ticked_turns > DEADLINES_AFTER_TURNS):
            self.ticked = False
            self.ticked_turns = 0
            self.run_deadlines()
            self.look_at_ages()
            if self.accept_paused and <int32_t>(self.accept_again_tick - self.tick) <= 0:
                self.resume_accept()
        self._end_turn()

    cdef void _end_turn(self):
        self.input_evicted = False
        self.relieved_in_vain = False
        if self.all.physical > self.hub.memory_bytes:
            self.relieve()          # request heads and what was kept aside grow without asking
        self.settle()
        if self.hungry != NULL:
            self.feed()
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

    def accept_from(self, int fd):
        """Takes a batch from a listener that is not polled here: another worker's. True = there may be more."""
        cdef bint more
        cdef uint64_t before = self.all.counters[N_ACCEPTED]
        if self.in_turn or self.wheel == NULL:
            return False
        self.in_turn = True     # see stop_accepting
        self.tell_time()
        more = self.accept_some(fd)
        self.all.counters[N_SIBLING_ACCEPTS] += self.all.counters[N_ACCEPTED] - before
        self.in_turn = False
        self.schedule()
        return more

    def leave_accepting(self, bint left, *, bint when_full):
        """True: others take what comes to the listeners, until it is False again; `when_full`: from max_connections on they will."""
        self.left_when_full = when_full
        if left != self.accept_left:
            self.accept_left = left
            self.watch_listeners()

    def stop_accepting(self, *, bint take=True):
        """Takes what the accept queues hold by now, unless somebody else goes on with them, then lets go of the listeners."""
        cdef int i
        cdef bint in_turn = self.in_turn
        self.accept_paused = False      # who connected while file descriptors were short is tried once more: nobody does it later
        self.in_turn = True     # a callback may not make a turn either: it would free what accept_some is reading for
        for i in range(self.listener_count):
            while take and not in_turn and self.accept_some(self.listeners[i]):
                pass
            poller_watch(self.poller, WATCH_REMOVE, self.listeners[i], 0, 0)
        self.in_turn = in_turn
        self.listener_count = 0
        self.schedule()

    # Whole.

    def report(self, error):
        """What the handler could not raise, because it happened after an await: counted and given to on_error like the rest."""
        self._report(error)

    def advance(self, double seconds):
        """Moves time on, for tests of deadlines."""
        self.all.skew_ns += <uint64_t>(seconds * 1e9)
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
        self.forget_hungry()
        self.bury()
        if self.hub.transport.owner == <void *>self:
            memset(&self.hub.transport, 0, sizeof(Transport))   # a hub that outlives us only queues
        self._release_link()
        self._release()
        close(self.tick_fd)
        self.tick_fd = -1

    @property
    def direct(self):
        """Whether raw messages go from here to the hub: the engine is in this process. Set before the first connection."""
        return self._direct

    @direct.setter
    def direct(self, bint direct):
        self._direct = direct

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
