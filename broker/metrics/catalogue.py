"""Every metric that is a sum of counters or gauges of the shared page: its name, its meaning, where its numbers stand.

Read by the collector, and by the test that compares docs/metrics.md with it. Labels have few, fixed values: never a
channel, a user or an address. A number that is part of two counters is taken away from the larger one (`Part.less`).
"""

from typing import NamedTuple

from broker.gateway.refusals import cause_word
from broker.native import _counters


class Part(NamedTuple):
    """One series of a metric: the sum of `names` less the sum of `less`, both of the page, under a label's value."""

    names: tuple[str, ...]
    label: str | None = None
    less: tuple[str, ...] = ()


class Sum(NamedTuple):
    """A counter (its name without _total) or a gauge over all processes."""

    name: str
    text: str
    parts: tuple[Part, ...]
    label: str | None = None


class PerWorker(NamedTuple):
    """The same for each worker; `how`: what two generations of one worker during a reload make together. `scale`: of
    what stands in the page.
    """

    name: str
    text: str
    column: str
    how: str = "sum"
    scale: float = 1


def _one(name: str, text: str, *names: str) -> Sum:
    return Sum(name, text, (Part(names),))


def _by(name: str, text: str, label: str, **names: str) -> Sum:
    return Sum(name, text, tuple(Part((counter,), value) for value, counter in names.items()), label)


def _closes() -> tuple[Part, ...]:
    by_word: dict[str, list[str]] = {}
    for cause in range(len([name for name in _counters.NAMES if name.startswith("n_closed_")])):
        word = cause_word(cause)
        if not word.startswith("cause "):  # a number that nobody gives
            by_word.setdefault(word, []).append(f"n_closed_{cause}")
    return tuple(Part(tuple(names), word) for word, names in by_word.items())


_AT_ADMISSION = ("n_refused_upgrades", "n_refused_total", "n_refused_address", "n_refused_blocked")

COUNTERS: tuple[Sum, ...] = (
    _one("accept_pauses", "Pauses of accepting for want of file descriptors or memory", "n_accept_pauses"),
    Sum(
        "handshakes",
        "Handshakes by how they ended. opened: a session; refused_readably: 101, then a Close that says why; "
        "refused_http: a status; full, overloaded: 503; address_full, blocked: 429; proxy_header: a bad PROXY header",
        (
            Part(("n_opened",), "opened"),
            Part(("n_refused_close",), "refused_readably"),
            Part(("n_refused_http",), "refused_http", _AT_ADMISSION),
            Part(("n_refused_full", "n_refused_total"), "full"),
            Part(("n_refused_upgrades",), "overloaded"),
            Part(("n_refused_address",), "address_full"),
            Part(("n_refused_blocked",), "blocked"),
            Part(("n_refused_proxy",), "proxy_header"),
        ),
        "result",
    ),
    Sum("connections_closed", "Connections that ended, by why; docs/protocol.md has the words", _closes(), "reason"),
    _by(
        "messages_received",
        "Data messages from clients; with broker.json.v1 each is a command",
        "format",
        raw="n_received_raw",
        json="n_received_json",
    ),
    _by(
        "message_bytes_received",
        "Payload bytes of them",
        "format",
        raw="n_received_bytes_raw",
        json="n_received_bytes_json",
    ),
    _one(
        "messages_discarded", "Messages that came when their connection was refused or closing", "n_messages_discarded"
    ),
    _by("messages_sent", "Deliveries written to clients", "format", raw="n_sent_raw", json="n_sent_json"),
    _by(
        "message_bytes_sent",
        "Bytes of them, with their frame headers",
        "format",
        raw="n_sent_bytes_raw",
        json="n_sent_bytes_json",
    ),
    _one("socket_bytes_received", "Bytes read from clients, handshakes and control frames included", "n_bytes_read"),
    _one("socket_bytes_sent", "Bytes that the kernel took for clients", "n_bytes_written"),
    _one("socket_writes", "Send calls: deliveries per write is how well writes are coalesced", "n_writes"),
    _by(
        "messages",
        "Ledger: messages accepted from publishers, and those that got their place in their channel's order",
        "stage",
        published="n_published",
        sequenced="n_sequenced",
    ),
    Sum(
        "deliveries",
        "Ledger: a delivery is one message for one subscription. offered = written + dropped + put_off + discarded + "
        "deliveries_queued. dropped: by a policy; put_off: to be read from the history; discarded: by a close",
        (
            Part(("n_offered",), "offered"),
            Part(("n_written",), "written"),
            Part(("n_dropped_oldest", "n_dropped_newest", "n_dropped_latest"), "dropped"),
            Part(("n_put_off",), "put_off"),
            Part(("n_discarded",), "discarded"),
        ),
        "stage",
    ),
    _by(
        "deliveries_dropped",
        "Deliveries given up because a queue was full, by the policy of their channel",
        "policy",
        drop_oldest="n_dropped_oldest",
        drop_newest="n_dropped_newest",
        latest="n_dropped_latest",
    ),
    _one("memory_evictions", "Connections closed to keep a worker within limits.memory_bytes", "n_memory_evictions"),
    _one("rate_limited", "Connections closed because they sent more than their rate", "n_rate_limited"),
    _one(
        "log_lines_suppressed",
        "Lines of the log beyond log.lines_per_second; they were not written",
        "n_log_suppressed",
    ),
    _one(
        "callback_errors",
        "Mistakes of the broker itself while it served a connection; the log has each",
        "n_callback_errors",
    ),
    _one(
        "engine_link_lost_messages",
        "Messages that the engine could not hand to a worker; their subscribers were told or closed",
        "n_link_lost",
    ),
    _one("credit_waits", "Times a worker did not read its publishers because the engine was behind", "n_credit_waits"),
    _one("history_evicted_channels", "Histories forgotten because all together kept too much", "n_history_evicted"),
    _by(
        "resumes",
        "Subscriptions that asked for what they had missed: got all of it, or were told that some of it is gone",
        "result",
        recovered="n_resumes_recovered",
        incomplete="n_resumes_incomplete",
    ),
    Sum(
        "api_requests",
        "Requests of the HTTP API by their answer. crowded: 503, as too many publishes waited; failed: any other 5xx",
        (
            Part(("n_api_ok",), "ok"),
            Part(("n_api_refused",), "refused"),
            Part(("n_api_unauthenticated",), "unauthenticated", ("n_api_unknown_keys",)),
            Part(("n_api_unknown_keys",), "unknown_key"),
            Part(("n_api_rate_limited",), "rate_limited"),
            Part(("n_api_timeouts",), "timeout"),
            Part(("n_api_failed",), "failed", ("n_api_crowded",)),
            Part(("n_api_crowded",), "crowded"),
        ),
        "result",
    ),
    _by(
        "tokens",
        "Tokens of clients: verified now, known from before, refused",
        "result",
        verified="n_tokens_verified",
        cached="n_tokens_cached",
        refused="n_tokens_refused",
    ),
    Sum(
        "key_fetches",
        "Fetches of key sets (auth.keys, jwks_url)",
        (Part(("n_key_fetches",), "ok", ("n_key_fetches_failed",)), Part(("n_key_fetches_failed",), "failed")),
        "result",
    ),
    _by(
        "hook_questions",
        "Questions to the site's hook: sent, answered from the cache, failed (a part of sent), refused as too many",
        "result",
        sent="n_hook_questions",
        cached="n_hook_cached",
        failed="n_hook_failed",
        crowded="n_hook_crowded",
    ),
)

GAUGES: tuple[Sum, ...] = (
    _one("subscriptions", "Subscriptions now", "g_subscriptions"),
    _one("channels", "Channels with a subscription now, on each worker by itself", "g_channels"),
    _one("deliveries_queued", "Ledger: deliveries that wait in send queues now", "g_queued"),
    _one("blocked_connections", "Connections now that do not read: their last write was short", "g_blocked"),
    _one("engine_links", "Links of workers to the engine process that are up now; 0 with one worker", "g_link_up"),
    _one("history_bytes", "Bytes that all histories take now", "g_history_bytes"),
    _one("history_messages", "Messages in them", "g_history_messages"),
    _one("history_channels", "Channels with a history now", "g_history_channels"),
    _one("presence_members", "Sessions and lingering members in channels with presence now", "g_presence_members"),
    _one("api_waiting_publishes", "Messages of the HTTP API that wait for the engine now", "g_api_waiting"),
)

WORKER_COUNTERS: tuple[PerWorker, ...] = (
    PerWorker("accepts", "Connections accepted", "n_accepted"),
    PerWorker(
        "sibling_accepts",
        "Of them, those taken from the listener of another worker that did not look after it",
        "n_sibling_accepts",
    ),
)

WORKER_GAUGES: tuple[PerWorker, ...] = (
    PerWorker("connections", "Connections now", "g_connections"),
    PerWorker("sessions", "Open sessions now", "g_sessions"),
    PerWorker("connections_limit", "Connections that the worker takes at most", "g_connections_limit", "max"),
    PerWorker("memory_bytes", "Bytes of frames, queues and unfinished input now", "g_memory_bytes"),
    PerWorker(
        "queue_oldest_seconds",
        "Age of the oldest message that waits for a connection that does not read; looked at every few seconds",
        "g_oldest_ns",
        "max",
        1e-9,
    ),
)

HISTOGRAMS: tuple[tuple[str, str, str], ...] = (
    ("fanout_deliveries", "fanout_deliveries", "Subscriptions of one worker that a message was offered to"),
    ("fanout_seconds", "fanout_ns", "Time to offer a message to all of them, which is what the loop is held for"),
    (
        "publish_to_write_seconds",
        "publish_to_write_ns",
        "From a message's fan-out to its last write, of messages whose last copy was written; without replays",
    ),
    ("handshake_seconds", "handshake_ns", "From accept to the answer 101"),
    (
        "engine_link_lag_seconds",
        "link_lag_ns",
        "From the engine's stamp to the worker, of the first message of each read; with several workers",
    ),
    ("loop_lag_seconds", "loop_lag_ns", "How late a worker's loop came to a timer of 50 ms"),
    ("api_request_seconds", "api_request_ns", "Time of a request of the HTTP API in the broker"),
)

PATTERN_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("pattern_messages", "messages", "Messages accepted from publishers, by the pattern of the configuration"),
    ("pattern_deliveries", "deliveries", "Deliveries offered, by pattern; replays are not in it"),
    ("pattern_drops", "drops", "Deliveries given up by a policy, by pattern"),
)
