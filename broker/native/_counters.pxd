# The worker's table of u64 counters and gauges: one row of native integers that may live in shared memory.
from libc.stdint cimport uint64_t

# NAMES in the .pyx has one entry a member, in this order; what each counts stands there.
cdef enum:
    N_ACCEPTED = 0
    N_ACCEPT_PAUSES
    N_REFUSED_FULL
    N_REQUESTS
    N_OPENED
    N_REFUSED_HTTP
    N_REFUSED_CLOSE
    N_BYTES_READ
    N_BYTES_WRITTEN
    N_WRITES
    N_MESSAGES_RECEIVED
    N_MESSAGES_DISCARDED
    N_PUBLISHED
    N_SEQUENCED
    N_OFFERED
    N_WRITTEN
    N_DROPPED_OLDEST
    N_DROPPED_NEWEST
    N_DROPPED_LATEST
    N_PUT_OFF
    N_DISCARDED
    N_EVENTS
    N_EVENTS_DROPPED
    N_FRAMES_ENCODED
    N_PONGS_COALESCED
    N_FLUSHES
    N_INPUT_PAUSES
    N_MEMORY_EVICTIONS
    N_CALLBACK_ERRORS
    N_LINK_LOST
    N_API_OK
    N_API_REFUSED
    N_API_UNAUTHENTICATED
    N_API_UNKNOWN_KEYS
    N_API_RATE_LIMITED
    N_API_TIMEOUTS
    N_API_FAILED
    N_TOKENS_VERIFIED
    N_TOKENS_CACHED
    N_TOKENS_REFUSED
    N_KEY_FETCHES
    N_KEY_FETCHES_FAILED
    N_HOOK_QUESTIONS
    N_HOOK_CACHED
    N_HOOK_FAILED
    N_HOOK_CROWDED
    G_CONNECTIONS
    G_SESSIONS
    G_SUBSCRIPTIONS
    G_CHANNELS
    G_QUEUED
    G_BLOCKED
    G_FRAMES
    G_SLOTS
    G_MEMORY_BYTES
    N_CLOSED            # first of CLOSE_CAUSES counters: connections ended, by cause; keep last

cdef enum:
    CLOSE_CAUSES = 64
    COUNTERS = N_CLOSED + CLOSE_CAUSES
