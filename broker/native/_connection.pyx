"""Connections as C structs.

One malloc of some 380 bytes a connection; an idle one owns nothing else but its subscriptions. Everybody outside the reactor names
a connection by its id, generation << 32 | slot, and finds out by table_find whether it is still there: an await, a timer or an
event of the poller may outlive it. The struct moves through its states only in the reactor.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from broker.native._frames import FAILURES
from broker.native._queue cimport outbox_init

CAUSES = (
    "unknown", "peer_gone", "peer_closed", "answered", "bad_request", "handshake_timeout", "decision_timeout", "message_timeout",
    "pong_timeout", "write_timeout", "too_slow", "memory", "callback_error", "full", "rate_limited", "proxy_header",
) + tuple(row[1] for row in FAILURES)
FIRST_POLICY_CAUSE_INDEX = FIRST_POLICY_CAUSE
CONNECTION_BYTES = sizeof(Connection)
assert CAUSES[CAUSE_PROXY] == "proxy_header" and len(CAUSES) <= FIRST_POLICY_CAUSE, "causes and failures leave room for the gateway's"


cdef Connection *table_add(Table *table, int fd) noexcept nogil:
    cdef Connection *connection
    cdef Place *places
    cdef uint32_t capacity, i
    if table.free_head == 0:
        capacity = table.capacity * 2 if table.capacity else 64
        places = <Place *>realloc(table.places, capacity * sizeof(Place))       # freed by table_free
        if places == NULL:
            return NULL
        table.places = places
        i = capacity
        while i > table.capacity:
            i -= 1
            places[i].connection = NULL
            places[i].generation = 1
            places[i].next_free = table.free_head
            table.free_head = i + 1
        table.capacity = capacity
    connection = <Connection *>calloc(1, sizeof(Connection))                    # freed by table_remove
    if connection == NULL:
        return NULL
    i = table.free_head - 1
    table.free_head = table.places[i].next_free
    table.places[i].connection = connection
    table.used += 1
    outbox_init(&connection.box, i)
    connection.generation = table.places[i].generation
    connection.fd = fd
    return connection


cdef void table_remove(Table *table, Connection *connection) noexcept nogil:
    cdef Place *place = &table.places[connection.box.slot]
    place.connection = NULL
    place.generation += 1
    if place.generation == 0:       # 2**32 connections later; an id is never 0
        place.generation = 1
    place.next_free = table.free_head
    table.free_head = connection.box.slot + 1
    table.used -= 1
    free(connection)


cdef void table_free(Table *table) noexcept nogil:
    free(table.places)
    table.places = NULL
    table.capacity = table.used = table.free_head = 0


cdef Connection *table_find(Table *table, uint64_t id) noexcept nogil:
    cdef uint32_t slot = <uint32_t>(id & 0xFFFFFFFFu)
    if slot >= table.capacity or table.places[slot].generation != <uint32_t>(id >> 32):
        return NULL
    return table.places[slot].connection


cdef inline uint32_t _nearer(uint32_t a, uint32_t b) noexcept nogil:
    if a == 0 or b == 0:
        return a | b
    return a if <int32_t>(a - b) <= 0 else b


cdef uint32_t connection_deadline(const Connection *connection) noexcept nogil:
    cdef uint32_t tick = _nearer(connection.state_tick, connection.message_tick)
    tick = _nearer(tick, connection.ping_tick)
    tick = _nearer(tick, connection.pong_tick)
    return _nearer(tick, connection.write_tick)


cdef bint stash_append(Connection *connection, const uint8_t *data, size_t size, size_t most) noexcept nogil:
    cdef size_t need = connection.stash_size + size, capacity = connection.stash_capacity
    cdef uint8_t *stash
    if need > most:
        return False
    if need > capacity:
        capacity = capacity * 2 if capacity else 128
        if capacity < need:
            capacity = need
        stash = <uint8_t *>realloc(connection.stash, capacity)                  # freed by stash_free
        if stash == NULL:
            return False
        connection.stash = stash
        connection.stash_capacity = <uint32_t>capacity
    memcpy(connection.stash + connection.stash_size, data, size)
    connection.stash_size = <uint32_t>need
    return True


cdef void stash_free(Connection *connection) noexcept nogil:
    free(connection.stash)
    connection.stash = NULL
    connection.stash_size = connection.stash_capacity = connection.stash_at = 0
