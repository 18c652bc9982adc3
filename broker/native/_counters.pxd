# The worker's table of u64 counters and gauges: one row of native integers that may live in shared memory.
from libc.stdint cimport uint8_t, uint64_t

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
    N_API_CROWDED
    N_TOKENS_VERIFIED
    N_TOKENS_CACHED
    N_TOKENS_REFUSED
    N_KEY_FETCHES
    N_KEY_FETCHES_FAILED
    N_HOOK_QUESTIONS
    N_HOOK_CACHED
    N_HOOK_FAILED
    N_HOOK_CROWDED
    N_RATE_LIMITED
    N_REFUSED_PROXY
    N_REFUSED_UPGRADES
    N_REFUSED_TOTAL
    N_REFUSED_ADDRESS
    N_REFUSED_BLOCKED
    N_LOG_SUPPRESSED
    N_SIBLING_ACCEPTS
    N_RECEIVED_RAW      # + format: RAW, JSON
    N_RECEIVED_JSON
    N_RECEIVED_BYTES_RAW
    N_RECEIVED_BYTES_JSON
    N_SENT_RAW          # + format
    N_SENT_JSON
    N_SENT_BYTES_RAW
    N_SENT_BYTES_JSON
    N_CREDIT_WAITS
    N_RESUMES_RECOVERED
    N_RESUMES_INCOMPLETE
    N_HISTORY_EVICTED
    G_LINK_UP
    G_CONNECTIONS
    G_REFUSED
    G_SESSIONS
    G_SUBSCRIPTIONS
    G_CHANNELS
    G_QUEUED
    G_BLOCKED
    G_FRAMES
    G_SLOTS
    G_MEMORY_BYTES
    G_OLDEST_NS
    G_API_WAITING
    G_CONNECTIONS_LIMIT
    G_HISTORY_BYTES
    G_HISTORY_MESSAGES
    G_HISTORY_CHANNELS
    G_PRESENCE_MEMBERS
    N_CLOSED            # first of CLOSE_CAUSES counters: connections ended, by cause; keep last

cdef enum:
    CLOSE_CAUSES = 64
    # Three counters for each pattern of the configuration; place 0 is of channels that none matches, the last of patterns without a place.
    PATTERNS = 66
    N_PATTERN = N_CLOSED + CLOSE_CAUSES
    PATTERN_MESSAGES = 0
    PATTERN_DELIVERIES = 1
    PATTERN_DROPS = 2
    PATTERN_COUNTERS = 3
    # Histograms: a counter for each bucket, then the sum. Bounds stand in _histogram.pyx.
    HISTOGRAM_CELLS = 19
    H_FANOUT_DELIVERIES = N_PATTERN + PATTERNS * PATTERN_COUNTERS
    H_FANOUT_NS = H_FANOUT_DELIVERIES + HISTOGRAM_CELLS
    H_PUBLISH_TO_WRITE_NS = H_FANOUT_NS + HISTOGRAM_CELLS
    H_HANDSHAKE_NS = H_PUBLISH_TO_WRITE_NS + HISTOGRAM_CELLS
    H_LINK_LAG_NS = H_HANDSHAKE_NS + HISTOGRAM_CELLS
    H_LOOP_LAG_NS = H_LINK_LAG_NS + HISTOGRAM_CELLS
    H_API_REQUEST_NS = H_LOOP_LAG_NS + HISTOGRAM_CELLS
    COUNTERS = H_API_REQUEST_NS + HISTOGRAM_CELLS

# The first cell of a pattern's three.
cdef inline uint64_t *of_pattern(uint64_t *counters, uint8_t pattern) noexcept nogil:
    return counters + N_PATTERN + <int>pattern * PATTERN_COUNTERS
