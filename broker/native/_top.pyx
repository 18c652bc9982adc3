"""Which channels are busiest and which sessions are slowest on one worker, the best few of all.

The hub counts in `Activity` as it delivers; here is who looks. A look is at a page of channels or of connections, so that
whoever has a hundred thousand of them lets others have their turn in between; what comes and goes meanwhile may be missed.
"""

from heapq import heappush, heapreplace

from libc.stdint cimport uint32_t, uint64_t

from broker.native._activity cimport WINDOW_NS, activity_deliveries, activity_messages, activity_turn, window_turn
from broker.native._connection cimport Connection, OPEN, connection_id
from broker.native._hub cimport Channel, Hub
from broker.native._output cimport oldest_frame
from broker.native._queue cimport Frame, Outbox
from broker.native._verbs cimport Verbs

CHANNEL_KEYS = ("messages", "deliveries", "subscriptions")
SESSION_KEYS = ("queued_bytes", "queued_messages", "waiting_ms")

cdef enum:
    BY_MESSAGES = 0         # in the order of the names above
    BY_DELIVERIES = 1
    BY_QUEUED_BYTES = 0
    BY_QUEUED_MESSAGES = 1


cdef class Best:
    """The `most` with the highest numbers; nobody with 0."""

    def __cinit__(self):
        self.heap = []

    cdef int keep(self, uint64_t value, object what) except -1:
        """Called for values above `floor` only: with most of them the heap is not touched."""
        self.order += 1                 # of two equals the first stays, and nothing compares `what`
        item = (value, -<object>self.order, what)
        if len(self.heap) < self.most:
            heappush(self.heap, item)
        else:
            heapreplace(self.heap, item)
        if len(self.heap) == self.most:
            self.floor = self.heap[0][0]
        return 0

    def found(self):
        """The highest first."""
        return [what for _, _, what in sorted(self.heap, reverse=True)]


cdef class BusiestChannels(Best):
    """By the place of a key in CHANNEL_KEYS. What is found: (name, messages a second, deliveries a second, subscriptions)."""

    cdef Hub hub
    cdef int by
    cdef double seconds

    def __init__(self, Hub hub not None, Verbs reactor not None, Py_ssize_t most, int by):
        cdef uint64_t now_ns = reactor.now_ns()
        window_turn(&hub.window, now_ns)
        self.most = most
        self.hub = hub
        self.by = by
        self.seconds = (2 * WINDOW_NS - (hub.window.ends_ns - now_ns)) / 1e9    # the running window, and the whole one before

    def look(self, list names not None):
        """Names of channels, as the hub has them; those that are gone are passed over."""
        cdef Channel *channel
        cdef uint64_t value
        for name in names:
            channel = self.hub.find(name)
            if channel == NULL:
                continue
            activity_turn(&channel.recent, self.hub.window.number)
            if self.by == BY_MESSAGES:
                value = activity_messages(&channel.recent)
            elif self.by == BY_DELIVERIES:
                value = activity_deliveries(&channel.recent)
            else:
                value = channel.count + channel.behind
            if value > self.floor:
                self.keep(value, (name, *self._numbers(channel)))

    cdef tuple _numbers(self, Channel *channel):
        return (
            activity_messages(&channel.recent) / self.seconds,
            activity_deliveries(&channel.recent) / self.seconds,
            channel.count + channel.behind,
        )

    def numbers(self, bytes name not None):
        """What `found` says of this channel, whatever it is; None = it is not here."""
        cdef Channel *channel = self.hub.find(name)
        if channel == NULL:
            return None
        activity_turn(&channel.recent, self.hub.window.number)
        return self._numbers(channel)


cdef class SlowestSessions(Best):
    """By the place of a key in SESSION_KEYS. What is found: (conn, queued bytes, queued messages, ms that the oldest waits)."""

    cdef Verbs reactor
    cdef int by
    cdef uint64_t now_ns

    def __init__(self, Verbs reactor not None, Py_ssize_t most, int by):
        self.most = most
        self.reactor = reactor
        self.by = by
        self.now_ns = reactor.now_ns()

    def look(self, uint32_t first, uint32_t most):
        """At `most` places of the table of connections from `first` on."""
        cdef Connection *connection
        cdef Outbox *box
        cdef Frame *frame
        cdef uint32_t i, messages
        cdef uint64_t value, waiting_ms
        cdef uint32_t end = <uint32_t>min(<uint64_t>first + most, self.reactor.table.capacity)
        for i in range(first, end):
            connection = self.reactor.table.places[i].connection
            if connection == NULL or connection.state != OPEN:
                continue
            box = &connection.box
            messages = box.count - box.tombstones - box.gaps
            if messages == 0:
                continue
            frame = oldest_frame(box)
            waiting_ms = (self.now_ns - frame.born_ns) // 1000000 if frame != NULL and frame.born_ns < self.now_ns else 0
            value = box.bytes if self.by == BY_QUEUED_BYTES else messages if self.by == BY_QUEUED_MESSAGES else waiting_ms
            if value > self.floor:
                self.keep(value, (connection_id(connection), box.bytes, messages, waiting_ms))
