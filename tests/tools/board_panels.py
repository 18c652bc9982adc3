"""What the Grafana board shows, as data: rows of panels, each with its unit, a sentence and its queries.

Written into JSON by tests/tools/board.py, which adds to every metric the choice of the board's variables, so that the
expressions here can be read.
"""

from tests.tools.board_queries import Query, Wanted, by, each_worker, quantile, quantiles, rate, total

ROWS: dict[str, tuple[Wanted, ...]] = {
    "Overview": (
        Wanted(
            "stat",
            "Alerts",
            "Alerts of the broker that fire now. What to do: docs/runbook.md.",
            "short",
            (Query('sum(ALERTS{alertname=~"WsBroker.*", alertstate="firing"}) or vector(0)'),),
            bad=1,
        ),
        Wanted(
            "stat",
            "Workers that accept",
            "Worker processes that take connections.",
            "short",
            (Query('sum(wsbroker_workers{state="accepting"})'),),
            bad=-1,
        ),
        Wanted(
            "stat",
            "Engine",
            "1: messages can be published. With several brokers the worst counts.",
            "short",
            (Query("min(wsbroker_engine_up)"),),
            bad=-1,
        ),
        Wanted("stat", "Connections", "TCP connections now.", "short", (Query("sum(wsbroker_connections)"),)),
        Wanted(
            "stat",
            "Places taken",
            "Connections in parts of what the workers take at most.",
            "percentunit",
            (Query("sum(wsbroker_connections) / sum(wsbroker_connections_limit)"),),
            bad=0.85,
        ),
        Wanted(
            "stat",
            "Published",
            "Messages accepted from publishers, a second.",
            "mps",
            (total('wsbroker_messages_total{stage="published"}'),),
        ),
        Wanted(
            "stat",
            "Delivered",
            "Messages written to subscribers, a second.",
            "mps",
            (total('wsbroker_deliveries_total{stage="written"}'),),
        ),
        Wanted(
            "stat",
            "Last reader, p99",
            "Of a hundred messages one takes longer from its fan-out to the last of its readers.",
            "s",
            (Query(quantile(0.99, "wsbroker_publish_to_write_seconds")),),
            bad=1,
        ),
    ),
    "Connections": (
        Wanted(
            "lines",
            "Connections by worker",
            "Unequal lines: a worker was replaced, or long connections never move. Alert WsBrokerImbalance.",
            "short",
            (each_worker("wsbroker_connections"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Handshakes",
            "By how they ended. Everything but opened is a client that was sent away.",
            "ops",
            (by("result", "wsbroker_handshakes_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Ends of connections",
            "By reason; docs/protocol.md has the words. peer_gone and peer_closed are what clients do by themselves.",
            "ops",
            (Query(f"sum by (reason) ({rate('wsbroker_connections_closed_total')}) > 0", "{{reason}}"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Time to open",
            "From accept to the answer 101: the time of tokens, of the hook, and of the loop.",
            "s",
            quantiles("wsbroker_handshake_seconds", 0.5, 0.9, 0.99),
        ),
        Wanted(
            "lines",
            "Accepted",
            "By worker; siblings: from the listener of another worker that hangs; pauses: no descriptors left.",
            "ops",
            (
                each_worker(rate("wsbroker_accepts_total")),
                total("wsbroker_sibling_accepts_total", "from siblings"),
                total("wsbroker_accept_pauses_total", "pauses"),
            ),
        ),
        Wanted(
            "lines",
            "Sessions and subscriptions",
            "Open sessions, their subscriptions, and channels that have any (on each worker by itself).",
            "short",
            (
                Query("sum(wsbroker_sessions)", "sessions"),
                Query("sum(wsbroker_subscriptions)", "subscriptions"),
                Query("sum(wsbroker_channels)", "channels"),
            ),
        ),
    ),
    "Messages": (
        Wanted(
            "lines",
            "Messages",
            "From clients and to clients, by format.",
            "mps",
            (
                Query(f"sum by (format) ({rate('wsbroker_messages_received_total')})", "in {{format}}"),
                Query(f"sum by (format) ({rate('wsbroker_messages_sent_total')})", "out {{format}}"),
            ),
        ),
        Wanted(
            "lines",
            "Bytes of messages",
            "Payloads from clients, frames to clients, by format.",
            "Bps",
            (
                Query(f"sum by (format) ({rate('wsbroker_message_bytes_received_total')})", "in {{format}}"),
                Query(f"sum by (format) ({rate('wsbroker_message_bytes_sent_total')})", "out {{format}}"),
            ),
        ),
        Wanted(
            "lines",
            "Bytes of sockets",
            "All that is read and written: handshakes, pings and refusals too.",
            "Bps",
            (
                total("wsbroker_socket_bytes_received_total", "in"),
                total("wsbroker_socket_bytes_sent_total", "out"),
            ),
        ),
        Wanted(
            "lines",
            "Fan-out",
            "Subscriptions that one message was offered to, on one worker.",
            "short",
            quantiles("wsbroker_fanout_deliveries", 0.5, 0.99),
        ),
        Wanted(
            "lines",
            "Time of a fan-out",
            "For so long the loop of a worker is held by one message.",
            "s",
            quantiles("wsbroker_fanout_seconds", 0.5, 0.99),
        ),
        Wanted(
            "lines",
            "Deliveries in a write",
            "How well writes are coalesced: system calls are what the broker spends its time on.",
            "short",
            (
                Query(
                    f"sum({rate('wsbroker_messages_sent_total')}) / sum({rate('wsbroker_socket_writes_total')})", "mean"
                ),
            ),
        ),
        Wanted(
            "lines",
            "Published by pattern",
            "By the pattern of the configuration that the channel belongs to.",
            "mps",
            (by("pattern", "wsbroker_pattern_messages_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Deliveries by pattern",
            "What costs most: messages times their subscribers.",
            "mps",
            (by("pattern", "wsbroker_pattern_deliveries_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Drops by pattern",
            "Which channels lose messages by their policy.",
            "mps",
            (by("pattern", "wsbroker_pattern_drops_total"),),
            stacked=True,
        ),
    ),
    "Latency": (
        Wanted(
            "heat",
            "From the fan-out to the last reader",
            "How long the slowest reader of a message waits for it. The kernel's buffers and the network come on top.",
            "s",
            (Query(f"sum by (le) ({rate('wsbroker_publish_to_write_seconds_bucket')})", "{{le}}"),),
        ),
        Wanted(
            "heat",
            "How late event loops are",
            "Everything a client waits for is late by as much. Alert WsBrokerLoopLag.",
            "s",
            (Query(f"sum by (le) ({rate('wsbroker_loop_lag_seconds_bucket')})", "{{le}}"),),
        ),
        Wanted(
            "lines",
            "Last reader",
            "The same as percentiles.",
            "s",
            quantiles("wsbroker_publish_to_write_seconds", 0.5, 0.99, 0.999),
        ),
        Wanted(
            "lines",
            "From the engine to a worker",
            "With several workers each message goes this way.",
            "s",
            quantiles("wsbroker_engine_link_lag_seconds", 0.5, 0.99, 0.999),
        ),
        Wanted(
            "lines",
            "Age of heartbeats",
            "Since a worker's loop last said that it turns. Beyond supervisor.stuck_seconds it is replaced.",
            "s",
            (Query("max by (instance, worker) (wsbroker_heartbeat_age_seconds)", "{{instance}} worker {{worker}}"),),
        ),
    ),
    "Queues": (
        Wanted(
            "lines",
            "Deliveries by stage",
            "offered = written + dropped + put off + discarded + queued.",
            "mps",
            (by("stage", "wsbroker_deliveries_total"),),
        ),
        Wanted(
            "lines",
            "Queued",
            "Deliveries that wait, and connections that do not read.",
            "short",
            (
                Query("sum(wsbroker_deliveries_queued)", "deliveries queued"),
                Query("sum(wsbroker_blocked_connections)", "connections blocked"),
            ),
        ),
        Wanted(
            "lines",
            "Oldest message that waits",
            "For a connection that does not read.",
            "s",
            (Query("max by (instance, worker) (wsbroker_queue_oldest_seconds)", "{{instance}} worker {{worker}}"),),
        ),
        Wanted(
            "lines",
            "Drops by policy",
            "latest replaces by design; the others lose something.",
            "mps",
            (by("policy", "wsbroker_deliveries_dropped_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Memory of queues, of its budget",
            "Frames, queues and unfinished input in parts of limits.memory_bytes. Beyond it slow readers are closed.",
            "percentunit",
            (
                Query(
                    "sum by (instance, worker) (wsbroker_memory_bytes"
                    " / on (job, instance) group_left wsbroker_memory_limit_bytes)",
                    "{{instance}} worker {{worker}}",
                ),
            ),
        ),
        Wanted(
            "lines",
            "Slow readers closed",
            "By reason; budget: to keep a worker within its memory; rate: they sent too much.",
            "ops",
            (
                by("reason", 'wsbroker_connections_closed_total{reason=~"too_slow|too_slow_again|write_timeout"}'),
                total("wsbroker_memory_evictions_total", "budget"),
                total("wsbroker_rate_limited_total", "rate"),
            ),
            stacked=True,
        ),
    ),
    "Engine and processes": (
        Wanted(
            "lines",
            "Published and sequenced",
            "They part when the engine is behind or away.",
            "mps",
            (by("stage", "wsbroker_messages_total"),),
        ),
        Wanted(
            "lines",
            "Link",
            "Publishers that waited for the engine, and messages that a worker did not take.",
            "ops",
            (
                total("wsbroker_credit_waits_total", "waits"),
                total("wsbroker_engine_link_lost_messages_total", "lost"),
            ),
        ),
        Wanted(
            "lines",
            "Processes",
            "By state. During a reload there are two generations.",
            "short",
            (
                Query("sum by (state) (wsbroker_workers)", "{{state}}"),
                Query("sum(wsbroker_engine_up)", "engines"),
                Query("sum(wsbroker_engine_links)", "links to engines"),
                Query("sum(wsbroker_draining)", "brokers that end"),
            ),
        ),
        Wanted(
            "lines",
            "Starts and deaths",
            "Of workers and engines. A death takes the connections of a worker with it.",
            "short",
            (
                Query(
                    "sum by (process) (increase(wsbroker_process_starts_total[$__rate_interval]))", "starts {{process}}"
                ),
                Query(
                    "sum by (process, reason) (increase(wsbroker_process_deaths_total[$__rate_interval]))",
                    "deaths {{process}} {{reason}}",
                ),
            ),
        ),
        Wanted(
            "lines",
            "Reloads, mistakes, lines left out",
            "Of the configuration; of the broker itself; of its log.",
            "short",
            (
                Query("sum by (result) (increase(wsbroker_reloads_total[$__rate_interval]))", "reloads {{result}}"),
                Query("sum(increase(wsbroker_callback_errors_total[$__rate_interval]))", "mistakes"),
                Query("sum(increase(wsbroker_log_lines_suppressed_total[$__rate_interval]))", "lines left out"),
            ),
        ),
        Wanted(
            "lines",
            "Age of the broker",
            "Since its main process started; back to zero: a restart, and everybody had to come back.",
            "s",
            (Query("time() - max by (instance) (wsbroker_start_time_seconds)", "{{instance}}"),),
        ),
    ),
    "History and presence": (
        Wanted(
            "lines",
            "Bytes of histories, of their budget",
            "In parts of limits.history_bytes. Beyond it the channel that was used longest ago is forgotten.",
            "percentunit",
            (Query("sum(wsbroker_history_bytes) / sum(wsbroker_history_limit_bytes)", "taken"),),
        ),
        Wanted(
            "lines",
            "Histories",
            "Channels with a history, messages kept, histories forgotten (a second).",
            "short",
            (
                Query("sum(wsbroker_history_channels)", "channels"),
                Query("sum(wsbroker_history_messages)", "messages"),
                total("wsbroker_history_evicted_channels_total", "forgotten"),
            ),
        ),
        Wanted(
            "lines",
            "Resumptions",
            "Clients that came back: with everything they missed, or told that some of it is gone.",
            "ops",
            (by("result", "wsbroker_resumes_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Presence",
            "Sessions and lingering members in channels with presence.",
            "short",
            (Query("sum(wsbroker_presence_members)", "members"),),
        ),
    ),
    "HTTP API and identities": (
        Wanted(
            "lines",
            "Requests",
            "Of the HTTP API, by their answer.",
            "reqps",
            (by("result", "wsbroker_api_requests_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Time of a request",
            "In the broker, and how many publishes wait for the engine.",
            "s",
            quantiles("wsbroker_api_request_seconds", 0.5, 0.99),
        ),
        Wanted(
            "lines",
            "Publishes that wait",
            "For the engine. From api.max_waiting_publishes on a worker answers 503.",
            "short",
            (Query("sum(wsbroker_api_waiting_publishes)", "messages"),),
        ),
        Wanted(
            "lines",
            "Tokens",
            "refused: a wrong key, a wrong clock, or somebody guesses.",
            "ops",
            (by("result", "wsbroker_tokens_total"),),
            stacked=True,
        ),
        Wanted(
            "lines",
            "Questions to the site",
            "Whose session a connection is. failed is a part of sent.",
            "ops",
            (by("result", "wsbroker_hook_questions_total"),),
        ),
        Wanted(
            "lines",
            "Fetches of keys",
            "Key sets of issuers; when they fail the last good one is used.",
            "ops",
            (by("result", "wsbroker_key_fetches_total"),),
            stacked=True,
        ),
    ),
    "Which broker": (
        Wanted(
            "stat",
            "Build",
            "Version, Python and native core. Several: brokers of several versions.",
            "none",
            (
                Query(
                    "count by (version, python, core) (wsbroker_build_info)", "{{version}}, Python {{python}}, {{core}}"
                ),
            ),
        ),
        Wanted(
            "stat",
            "Dangerous settings",
            "Each is a setting for development that is in force. Alert WsBrokerUnsafeSetting.",
            "none",
            (Query("sum by (setting) (wsbroker_unsafe_setting) or vector(0)", "{{setting}}"),),
            bad=1,
        ),
    ),
}
