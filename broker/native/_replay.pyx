"""Verbs on a subscription that is behind: it gets its messages one by one, from whoever holds the history.

Seventh layer of the reactor. A subscription is live, which is: in its channel's fan-out, or it is behind. It begins behind when
somebody resumes, and falls behind under policy catch_up. While it is, the node reads the history and calls `replay` for each
message until the answer is FED_FULL; `on_room` says when to go on. `go_live` is called with nothing left to read: no message
can be published in between, so the seam has neither hole nor duplicate.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from broker.native._connection cimport CAUSE_MEMORY, Connection, OPEN, connection_id
from broker.native._counters cimport N_OFFERED
from broker.native._hub cimport Channel, Message
from broker.native._queue cimport (
    FORMAT_RAW, Frame, LANE_BULK, Subscription, missed_unknown, outbox_fits, outbox_gap, outbox_push, outbox_used,
)
from broker.native._verbs cimport Verbs

GONE, QUEUED, FULL = FED_GONE, FED_QUEUED, FED_FULL


cdef class Replaying(Verbs):
    def subscribe_behind(self, uint64_t conn, bytes name not None, uint8_t policy, uint8_t payload, bint sends, uint8_t pattern=0):
        """Joins a channel whose messages it will be given by `replay`. False = gone, or joined already."""
        cdef Connection *connection
        if not self.subscribe(conn, name, policy, payload, False, sends, pattern):
            return False
        connection = self.find(conn)
        self.hub.fall_behind(connection.subscriptions)      # the newest comes first
        return True

    cdef Subscription *behind(self, uint64_t conn, bytes name):
        cdef Connection *connection = self.find(conn)
        cdef Channel *channel = self.hub.find(name)
        cdef Subscription *subscription
        self.hub.settle_lagging()
        if connection == NULL or channel == NULL or connection.box.closed or connection.state != OPEN:
            return NULL
        subscription = connection.subscriptions
        while subscription != NULL and subscription.channel != <void *>channel:
            subscription = subscription.next
        return NULL if subscription == NULL or not subscription.behind else subscription

    def replay(self, uint64_t conn, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None,
               uint64_t offset, uint64_t time_ms):
        """Queues a kept message for one subscription that is behind. GONE, QUEUED or FULL."""
        cdef Subscription *subscription = self.behind(conn, name)
        cdef Connection *connection
        cdef Frame *frame
        cdef Message message
        if subscription == NULL:
            return FED_GONE
        connection = <Connection *>subscription.outbox
        # Untold: what was queued has been taken back, and on_room will say from where to go on.
        if subscription.untold or (connection.box.count and outbox_used(&connection.box) >= self.low_water):
            connection.box.wants_room = 1
            return FED_FULL
        message.channel = <Channel *>subscription.channel
        message.payload = <const uint8_t *>PyBytes_AS_STRING(payload)
        message.size = <size_t>PyBytes_GET_SIZE(payload)
        message.extra = <const uint8_t *>PyBytes_AS_STRING(extra)
        message.extra_size = <size_t>PyBytes_GET_SIZE(extra)
        message.offset = offset
        message.time_ms = time_ms
        message.kind = kind
        frame = self.hub.replay_frame(connection.box.format, &message)
        # A message that no queue holds goes when nothing else waits, as in a fan-out.
        if frame != NULL and connection.box.count and not outbox_fits(self.all, &connection.box, frame.size):
            connection.box.wants_room = 1
            return FED_FULL
        if frame == NULL or not outbox_push(self.all, &connection.box, frame, subscription):
            self.doom(connection, CAUSE_MEMORY)
            self.schedule()
            return FED_GONE
        self.all.counters[N_OFFERED] += 1
        self.mark(connection, LANE_BULK)
        self.schedule()
        return FED_QUEUED

    def forget_replayed(self):
        """The end of a pass over those who are behind: frames that were encoded for it are no longer kept for others."""
        self.hub.forget_replayed()

    def go_live(self, uint64_t conn, bytes name not None):
        """Nothing is left to replay: from now on it gets what is published. GONE, QUEUED (it is live), or FULL: what was queued of
        it has been taken back meanwhile, and on_room will say from where to go on.
        """
        cdef Subscription *subscription = self.behind(conn, name)
        if subscription == NULL:
            return FED_GONE
        if subscription.untold:
            return FED_FULL
        self.hub.enter(<Channel *>subscription.channel, subscription)
        return FED_QUEUED

    def missed_behind(self, uint64_t conn, bytes name not None, count):
        """Queues a gap notice for one subscription that is behind; None = nobody knows how many. False = raw, or gone."""
        cdef Subscription *subscription = self.behind(conn, name)
        if subscription == NULL or subscription.outbox.format == FORMAT_RAW:
            return False
        outbox_gap(self.all, subscription.outbox, subscription, missed_unknown() if count is None else count)
        self.mark(<Connection *>subscription.outbox, LANE_BULK)
        self.schedule()
        return True

    def publish_kept(self, uint64_t conn, bytes name not None, uint8_t kind, bytes payload not None, bytes extra not None, bint echo,
                     uint64_t offset, uint64_t time_ms):
        """As `publish`, of a message that has its place in the history."""
        cdef Connection *connection = self.find(conn)
        cdef int64_t offers
        if not self.remote:
            self.hub.count_published()
        offers = self.hub.publish_except(
            name, kind, payload, extra, NULL if echo or connection == NULL else &connection.box, offset, time_ms
        )
        self.offers += <uint64_t>offers
        self.schedule()
        return offers

    @property
    def on_room(self):
        """Called at the end of a turn with a connection that wanted room, and a list of (channel, cursor): subscriptions of it
        that fell behind, to be replayed after that offset. Of a connection that has ended, too: verbs then find it gone.
        """
        return self.on_room_callback

    @on_room.setter
    def on_room(self, callback):
        self.on_room_callback = callback

    cdef void feed(self):
        cdef Connection *connection
        cdef Subscription *subscription
        while self.hungry != NULL:
            connection = self.hungry
            self.hungry = connection.next_hungry
            connection.hungry = connection.box.wants_room = 0
            try:
                self.hub.settle_lagging()
                fell = []
                subscription = connection.subscriptions
                while subscription != NULL:
                    if subscription.untold:
                        subscription.untold = 0
                        fell.append((<object>(<Channel *>subscription.channel).name, subscription.cursor))
                    subscription = subscription.next
                self.on_room_callback(connection_id(connection), fell)
            except BaseException as error:
                self.failed_callback(connection, error)

    cdef void forget_hungry(self) noexcept nogil:
        while self.hungry != NULL:
            self.hungry.hungry = 0
            self.hungry = self.hungry.next_hungry
