"""Names and meanings of the counters that the native core increments.

The table is one writable buffer of ``COUNTERS`` native u64, handed to the reactor by whoever owns it (a worker, later a row of a
shared page), so that another process can read it while this one runs and after this one died. Names starting with ``n_`` only
grow; those starting with ``g_`` are gauges.
"""

TABLE = (
    ("n_accepted", "TCP connections accepted"),
    ("n_accept_pauses", "pauses of accept for want of file descriptors or memory"),
    ("n_refused_full", "connections answered 503 because the worker holds max_connections"),
    ("n_requests", "request heads read whole"),
    ("n_opened", "sessions opened: 101 answered"),
    ("n_refused_http", "requests answered with an HTTP status other than 101"),
    ("n_refused_close", "refusals that were accepted with 101 and closed with a readable code"),
    ("n_bytes_read", "bytes read from clients"),
    ("n_bytes_written", "bytes taken by the kernel for clients"),
    ("n_writes", "send calls that took at least one byte"),
    ("n_messages_received", "whole data messages received"),
    ("n_messages_discarded", "data messages that arrived after their connection was refused or closing"),
    ("n_published", "ledger: messages accepted at the publish edge"),
    ("n_sequenced", "ledger: messages the engine gave their place in the channel's order"),
    ("n_offered", "ledger: deliveries, one for each message and each subscription that was due it"),
    ("n_written", "ledger: deliveries whose last byte the kernel took"),
    ("n_dropped_oldest", "ledger: deliveries given up by policy drop_oldest"),
    ("n_dropped_newest", "ledger: deliveries given up by policy drop_newest"),
    ("n_dropped_latest", "ledger: deliveries replaced by a newer one under policy latest"),
    ("n_put_off", "ledger: deliveries taken back under policy catch_up, to be offered again from the history"),
    ("n_discarded", "ledger: deliveries given up because their connection closed"),
    ("n_events", "events of a whole channel (join, leave) queued, one for each subscription that hears them"),
    ("n_events_dropped", "events of a whole channel that a blocked connection had no room for; a gap notice stands for them"),
    ("n_frames_encoded", "frames encoded for fan-out: one for each message and variant in use"),
    ("n_pongs_coalesced", "pings answered only by the pong of a later ping"),
    ("n_flushes", "flush slices run"),
    ("n_input_pauses", "times reading from a connection was paused"),
    ("n_memory_evictions", "connections closed to keep the worker within memory_bytes"),
    ("n_callback_errors", "exceptions raised by Python code that a connection's event called"),
    ("n_link_lost", "messages that the engine could not hand to a worker that did not take them; their subscribers were told"),
    ("n_api_ok", "HTTP API: requests answered with a status below 400"),
    ("n_api_refused", "HTTP API: requests answered with a status from 400 to 499 that has no counter of its own"),
    ("n_api_unauthenticated", "HTTP API: requests answered 401"),
    ("n_api_unknown_keys", "HTTP API: requests with a key that is none of ours, a part of those answered 401"),
    ("n_api_rate_limited", "HTTP API: requests answered 429"),
    ("n_api_timeouts", "HTTP API: requests that were not complete in time, answered 408"),
    ("n_api_failed", "HTTP API: requests answered with a status from 500 on"),
    ("n_api_crowded", "HTTP API: requests answered 503 because api.max_waiting_publishes messages waited, a part of those that failed"),
    ("n_tokens_verified", "tokens whose signature was checked and that gave an identity"),
    ("n_tokens_cached", "tokens that had been verified before"),
    ("n_tokens_refused", "tokens that gave no identity"),
    ("n_key_fetches", "fetches of key sets (auth.keys, jwks_url)"),
    ("n_key_fetches_failed", "fetches of key sets that brought none; the last good one is used on"),
    ("n_hook_questions", "questions sent to the site's hook"),
    ("n_hook_cached", "questions for the hook that had been answered lately"),
    ("n_hook_failed", "questions that the hook did not answer, not in time, or not as it has to; clients were refused with 503"),
    ("n_hook_crowded", "clients refused with 503 because too many questions waited for the hook"),
    ("n_rate_limited", "connections closed because they sent more messages or bytes than their buckets held"),
    ("n_refused_proxy", "connections closed because of their PROXY header: none, malformed, or not of a trusted proxy"),
    ("n_refused_upgrades", "upgrades answered 503 because more came than upgrades_per_second"),
    ("n_refused_total", "upgrades answered 503 because all workers together hold max_connections_total"),
    ("n_refused_address", "upgrades answered 429 because their address holds max_connections_per_address"),
    ("n_refused_blocked", "upgrades answered 429 because their address was refused too often within the minute"),
    ("n_log_suppressed", "lines of the log that were not written because of log.lines_per_second"),
    ("n_sibling_accepts", "connections taken from the listener of another worker that did not look after it"),
    ("n_received_raw", "data messages from raw clients"),
    ("n_received_json", "data messages from clients that speak broker.json.v1: each is a command"),
    ("n_received_bytes_raw", "payload bytes of them, raw"),
    ("n_received_bytes_json", "payload bytes of them, broker.json.v1"),
    ("n_sent_raw", "deliveries written to raw clients"),
    ("n_sent_json", "deliveries written to clients that speak broker.json.v1"),
    ("n_sent_bytes_raw", "frame bytes of them, raw"),
    ("n_sent_bytes_json", "frame bytes of them, broker.json.v1"),
    ("n_credit_waits", "times publishers were not read because too much was under way to the engine"),
    ("n_resumes_recovered", "subscriptions that asked for what they had missed, or for the last messages, and got all of it"),
    ("n_resumes_incomplete", "subscriptions that asked for it and were told that some of it is gone"),
    ("n_history_evicted", "channels whose history was forgotten because all together kept too much"),
    ("g_link_up", "1 while this worker has a link to the engine process on which publishes can be sequenced"),
    ("g_connections", "connections now"),
    ("g_refused", "of them those that were refused in HTTP and have not gone yet"),
    ("g_sessions", "open sessions now"),
    ("g_subscriptions", "subscriptions now"),
    ("g_channels", "channels with at least one subscription now"),
    ("g_queued", "ledger: deliveries waiting in send queues now"),
    ("g_blocked", "connections now whose last write was short"),
    ("g_frames", "frames alive now"),
    ("g_slots", "queue slots in use now"),
    ("g_memory_bytes", "bytes of frames, slots and partial input now"),
    ("g_oldest_ns", "age of the oldest frame that waits for a blocked connection, in ns, as of the last look at all of them"),
    ("g_api_waiting", "HTTP API: messages that wait for the engine now"),
    ("g_connections_limit", "connections that the worker takes at most"),
    ("g_history_bytes", "bytes that the histories of all channels take now"),
    ("g_history_messages", "messages in them"),
    ("g_history_channels", "channels with a history now"),
    ("g_presence_members", "members of all channels with presence now"),
)

HISTOGRAMS = {
    "fanout_deliveries": H_FANOUT_DELIVERIES,
    "fanout_ns": H_FANOUT_NS,
    "publish_to_write_ns": H_PUBLISH_TO_WRITE_NS,
    "handshake_ns": H_HANDSHAKE_NS,
    "link_lag_ns": H_LINK_LAG_NS,
    "loop_lag_ns": H_LOOP_LAG_NS,
    "api_request_ns": H_API_REQUEST_NS,
}
BUCKETS = HISTOGRAM_CELLS - 1
FIRST_PATTERN, PATTERN_PLACES = N_PATTERN, PATTERNS

NAMES = (
    tuple(name for name, _ in TABLE)
    + tuple(f"n_closed_{i}" for i in range(CLOSE_CAUSES))
    + tuple(f"n_pattern_{what}_{i}" for i in range(PATTERNS) for what in ("messages", "deliveries", "drops"))
    + tuple(f"n_{name}_{i}" for name in HISTOGRAMS for i in [*range(BUCKETS), "sum"])
)
FIRST_CLOSE_CAUSE = N_CLOSED
SIZE = COUNTERS
assert len(NAMES) == COUNTERS, "one name for each counter of the enum"
