# Reading: request heads, frames, pending input.
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from broker.native._accept cimport Acceptor
from broker.native._connection cimport Connection
from broker.native._frames cimport FrameLimits, Parsed
from broker.native._hub cimport Message
from broker.native._rate cimport RateRule
from broker.native._request cimport RequestLimits

cdef class Intake(Acceptor):
    cdef uint32_t pass_messages
    cdef uint64_t pass_offers
    cdef int json_depth
    cdef bint _direct               # a raw message goes from here to the hub: the engine is in this process
    cdef bint text_ping
    cdef bint publish_blocked       # connections that publish by themselves are not read: the engine has to catch up
    cdef RateRule message_rate      # of each connection: frames that were handled,
    cdef RateRule byte_rate         # and bytes taken of it
    cdef FrameLimits frame_limits
    cdef RequestLimits request_limits
    cdef uint8_t *input             # OWNED, read_bytes: the one read buffer
    cdef uint32_t read_bytes
    cdef uint8_t entropy[4080]
    cdef uint32_t entropy_at
    cdef uint64_t offers            # deliveries caused since start, to bound those of one read pass
    cdef uint64_t work              # messages, passes and 64ths of deliveries since start
    cdef uint64_t work_timed        # at the last look at the clock
    cdef uint64_t turn_started
    cdef bint turn_over
    cdef Connection *pending        # connections whose input waits in their stash
    cdef Connection *pending_last
    cdef object call_soon
    cdef object turn_method         # what schedule hands to the loop; set by the reactor
    cdef bint scheduled

    cdef void schedule(self)
    cdef bint _left_while_waiting(self, Connection *connection) noexcept nogil
    cdef void receive(self, Connection *connection, uint8_t *data, size_t size)
    cdef void receive_head(self, Connection *connection, uint8_t *data, size_t size)
    cdef size_t take(self, Connection *connection, uint8_t *data, size_t size)
    cdef void keep(self, Connection *connection, uint8_t *data, size_t size)
    cdef void run_pending(self)
    cdef bint turn_is_over(self) noexcept nogil
    cdef void take_stash(self, Connection *connection)
    cdef void on_message(self, Connection *connection, Parsed *parsed)
    cdef void forward(self, Connection *connection, Message *message)
    cdef void publish_raw(self, Connection *connection, Parsed *parsed)
    cdef bint _within_rate(self, Connection *connection, uint64_t frames, uint64_t bytes)
    cdef void on_peer_close(self, Connection *connection, Parsed *parsed)
    cdef void _release_stash(self, Connection *connection)
    cdef void _forget_parser(self, Connection *connection)
    cdef void _pong(self, Connection *connection, Parsed *parsed)
    cdef void _bad_payload(self, Connection *connection, word, size_t where)
    cdef void _unpause(self, Connection *connection)
    cdef void identify(self, Connection *connection) noexcept nogil

# base64url of 12 bytes: 16 characters, legal in every name rule.
cdef void put_identity(uint8_t *out, const uint8_t *identity) noexcept nogil
