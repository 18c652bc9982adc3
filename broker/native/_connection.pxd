# One TCP connection as a C struct, and the table that finds it again by slot and generation. No Python object but the session it carries.
from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from broker.native._frames cimport FrameParser
from broker.native._queue cimport Frame, Outbox, Subscription
from broker.native._wheel cimport Timer

# Moves only downward, to ENDING or DEAD from anywhere:
#   HEAD -> DECIDING -> OPEN -> CLOSING -> ENDING -> DEAD
#               \-> HELD -------^
cdef enum:
    HEAD = 0            # reading the request head
    DECIDING = 1        # the head is whole, the gateway decides
    OPEN = 2
    HELD = 3            # refused readably: 101 answered, the Close is held back
    CLOSING = 4         # our Close is queued; input is read for the peer's Close only
    ENDING = 5          # the last bytes are queued; then FIN, and input is thrown away until the peer ends
    DEAD = 6            # in the graveyard

# Why input is not read (bits of `paused`).
cdef enum:
    PAUSED_COMMAND = 1  # a command of this connection is awaiting
    PAUSED_DECISION = 2 # the gateway has not decided yet
    PAUSED_CREDIT = 4   # the engine has not taken enough of what was published before

# Why a connection ended; the first cause counts. CAUSES in the .pyx names them. From CAUSE_PROTOCOL on: + FrameFailure. From FIRST_POLICY_CAUSE on: the gateway's own.
cdef enum:
    CAUSE_NONE = 0
    CAUSE_PEER_GONE = 1
    CAUSE_PEER_CLOSED = 2
    CAUSE_ANSWERED = 3
    CAUSE_BAD_REQUEST = 4
    CAUSE_HANDSHAKE_TIMEOUT = 5
    CAUSE_DECISION_TIMEOUT = 6
    CAUSE_MESSAGE_TIMEOUT = 7
    CAUSE_PONG_TIMEOUT = 8
    CAUSE_WRITE_TIMEOUT = 9
    CAUSE_TOO_SLOW = 10
    CAUSE_MEMORY = 11
    CAUSE_CALLBACK_ERROR = 12
    CAUSE_FULL = 13
    CAUSE_RATE = 14
    CAUSE_PROXY = 15
    CAUSE_PROTOCOL = 16
    FIRST_POLICY_CAUSE = 40

# What else is remembered of a connection (bits of `marks`).
cdef enum:
    MARK_PROXY = 1      # its PROXY header is still to come
    MARK_NAMED = 2      # its client's address is another than the socket's: in the reactor's `names`
    MARK_TOLD = 4       # the gateway is told when it ends
    MARK_REFUSED = 8    # refused in HTTP; counted in G_REFUSED

cdef struct Connection:
    Outbox box                      # first: an Outbox pointer is a Connection pointer
    Timer timer
    FrameParser parser
    uint8_t *stash                  # OWNED: bytes read but not taken yet; while HEAD, the head so far
    uint32_t stash_size
    uint32_t stash_capacity
    uint32_t stash_at               # taken up to here; while HEAD, the cursor of request_end
    int fd
    Subscription *subscriptions     # OWNED list
    Subscription *target            # BORROWED from that list: where a raw message is published
    PyObject *session               # OWNED, what the gateway gave; NULL = none
    PyObject *sender                # OWNED bytes: the "from" member of the envelope; NULL = made of `identity`
    Frame *held_close               # OWNED while HELD
    Connection *next_pending
    Connection *next_doomed
    Connection *next_grave
    Connection *next_hungry
    uint64_t published              # number of its last publish on the link; 0 = none
    uint64_t messages_full_at_ns    # buckets of what it sends (_rate.pxd); until it is open, when it was accepted
    uint64_t bytes_full_at_ns
    uint32_t generation
    uint32_t state_tick             # deadlines, 0 = none: of the state,
    uint32_t message_tick           # of the message begun,
    uint32_t ping_tick              # of the next ping,
    uint32_t pong_tick              # of any byte after a ping was written,
    uint32_t write_tick             # of the next progress in writing
    uint32_t subscription_count
    uint8_t identity[12]            # random: the session id, made when first asked for
    uint8_t state
    uint8_t paused
    uint8_t watched                 # Interest bits the poller has
    uint8_t cause
    uint8_t pending                 # in the pending-input list
    uint8_t doomed                  # in the doomed list
    uint8_t opened                  # counted in G_SESSIONS
    uint8_t ping_queued
    uint8_t peer_closed             # its Close has come
    uint8_t end_written             # our last byte is with the kernel
    uint8_t identified              # identity is made
    uint8_t page                    # its request had an Origin: a browser, which never half-closes
    uint8_t hungry                  # in the hungry list: it wanted room and has it, or has ended
    uint8_t reset                   # close with RST: a deadline passed
    uint8_t marks                   # MARK_

cdef struct Place:
    Connection *connection          # OWNED; NULL = free
    uint32_t generation             # raised whenever the place is freed: an old id finds nothing
    uint32_t next_free

cdef struct Table:
    Place *places
    uint32_t capacity
    uint32_t free_head              # 1 + index of the first free place; 0 = none
    uint32_t used

cdef Connection *table_add(Table *table, int fd) noexcept nogil     # NULL = no memory
cdef void table_remove(Table *table, Connection *connection) noexcept nogil     # frees the struct; what it owns is gone already
cdef void table_free(Table *table) noexcept nogil
cdef Connection *table_find(Table *table, uint64_t id) noexcept nogil   # NULL = gone

cdef inline uint64_t connection_id(const Connection *connection) noexcept nogil:
    return <uint64_t>connection.generation << 32 | connection.box.slot

# The nearest deadline, 0 = none.
cdef uint32_t connection_deadline(const Connection *connection) noexcept nogil
# Appends to the stash, `most` bytes in all. False = no memory, or over `most`. The caller accounts for stash_capacity.
cdef bint stash_append(Connection *connection, const uint8_t *data, size_t size, size_t most) noexcept nogil
cdef void stash_free(Connection *connection) noexcept nogil
