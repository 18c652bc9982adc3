"""Writes docs/metrics.md: every metric with its type, its labels and their values, its meaning, and when to look at it.

    make docs-reference

All but the last is what the collector itself says. When to look at a metric stands here; a metric that is missing here
or no longer there is an error.
"""

import os
from pathlib import Path

from prometheus_client import Metric

from broker.config.schema import Auth, Config, Server
from broker.metrics.collector import Collector
from broker.metrics.facts import Facts
from broker.metrics.page import Page, worker_slot
from broker.metrics.patterns import PatternPlaces

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
WORKERS = 2

# Labels whose values are the operator's, the build's, or too many to list: what they are instead.
MOST_LISTED = 10
OPEN_LABELS = {
    "worker": "0, 1, …",
    "setting": "a dotted setting",
    "pattern": "a pattern of the configuration; `(none)`, `(other)`",
    "reason": "a word of [protocol.md](protocol.md#4-close-codes), or why the broker gave up",
    "version": "",
    "python": "",
    "core": "",
}

INTRODUCTION = """# Metrics

What `http://127.0.0.1:9000/metrics` (`admin.listen`) tells Prometheus. `make docs-reference` writes this page from what
the broker itself says, so it is complete. Alerts: `deploy/prometheus/alerts.yml` and [runbook.md](runbook.md). Board:
`deploy/grafana`.

- All names begin with `wsbroker_`, left out below. Counters end in `_total` and only grow: what a worker counted that
  has died is kept. Histograms have `_bucket`, `_sum` and `_count`. Times are in seconds, sizes in bytes.
- Labels have few values, which the configuration bounds: never a channel, a user or an address. "Which channel is
  busiest, which session slowest" the HTTP API answers ([http-api.md](http-api.md)).
- One broker is one target, however many workers it has. The label `worker` is its number, which a replacement takes
  over.
- Each scrape reads a table in shared memory. It asks no worker, so it costs them nothing, and a worker that hangs
  cannot delay it.
"""

SECTIONS: dict[str, dict[str, str]] = {
    "Which broker, and is it alive": {
        "build_info": "after an upgrade: does everybody run it?",
        "start_time_seconds": "a change is a restart: everybody had to come back",
        "unsafe_setting": "should have no series in production; alert WsBrokerUnsafeSetting",
        "workers": "fewer accepting than configured: somebody died or starts",
        "engine_up": "0: nothing can be published; alert WsBrokerEngineDown",
        "draining": "1 during a stop; alerts of readiness look away then",
        "process_starts": "beside the deaths: was everybody replaced?",
        "process_deaths": "any growth is worth a look into the log; alerts WsBrokerProcessDied, WsBrokerCrashLoop",
        "reloads": "after a SIGHUP: was it taken?",
        "heartbeat_age_seconds": "above a second: this worker hangs; alert WsBrokerHeartbeatOld",
        "log_lines_suppressed": "the log says something very often: read what; alert WsBrokerLogSuppressed",
        "callback_errors": "any growth is a fault of the broker; report it with the traceback of the log",
    },
    "Connections": {
        "connections": "how busy it is, and whether workers share evenly; alert WsBrokerImbalance",
        "connections_limit": "beside connections: how much room is left; alert WsBrokerNearlyFull",
        "sessions": "less than connections by those in their handshake or closing",
        "accepts": "connection rate; which worker gets how many",
        "sibling_accepts": "grows while a worker hangs, at reloads, and while workers are unequal",
        "accept_pauses": "any growth: raise the limit of file descriptors; alert WsBrokerAcceptPauses",
        "handshakes": "who is sent away and why; alerts WsBrokerRefusesClients, WsBrokerFull, WsBrokerOverloaded",
        "handshake_seconds": "connecting is slow: the hook, keys, or the loop",
        "connections_closed": "why clients lose their connection; alert WsBrokerCutsSlowReaders",
        "rate_limited": "a client floods, or the bound is too low for an honest one",
    },
    "Messages": {
        "messages_received": "load by clients",
        "message_bytes_received": "divided by the messages: their size",
        "messages_discarded": "clients that go on sending after they were refused",
        "messages_sent": "the work of the broker: deliveries a second",
        "message_bytes_sent": "what readers have to take",
        "socket_bytes_received": "against the network's limit",
        "socket_bytes_sent": "against the network's limit",
        "socket_writes": "messages_sent / socket_writes falls when traffic is thin; high is cheap",
        "fanout_deliveries": "how large channels are, by what is published in them",
        "fanout_seconds": "high: one message holds a worker; more workers share it",
        "publish_to_write_seconds": "what users feel as speed; alert WsBrokerSlowDelivery",
        "loop_lag_seconds": "the first thing to look at when all is slow; alert WsBrokerLoopLag",
        "subscriptions": "with messages: how much fan-out to expect",
        "channels": "for sizing; a channel with subscribers on two workers counts twice",
    },
    "Queues and the ledger": {
        "messages": "published and sequenced part: the engine is behind or away",
        "deliveries": "where messages go; the sum of the stages balances",
        "deliveries_queued": "grows: readers do not keep up",
        "deliveries_dropped": "somebody misses something, by policy; alert WsBrokerDropsMessages",
        "blocked_connections": "how many do not read; alert WsBrokerReadersBlocked",
        "queue_oldest_seconds": "how far the slowest is behind; at limits.write_seconds it is closed",
        "memory_bytes": "near the limit: slow readers are about to be closed; alert WsBrokerMemoryHigh",
        "memory_limit_bytes": "beside memory_bytes; it is for each worker",
        "memory_evictions": "any growth: see WsBrokerMemoryEvictions",
        "pattern_messages": "which channels are used",
        "pattern_deliveries": "which channels cost most",
        "pattern_drops": "which channels lose messages",
    },
    "Engine and links": {
        "engine_links": "fewer than workers: one of them can neither publish nor hear; alert WsBrokerLinkDown",
        "engine_link_lag_seconds": "high: the engine or the machine is too busy; alert WsBrokerEngineLinkSlow",
        "engine_link_lost_messages": "any growth: a worker stood still; alert WsBrokerLinkLostMessages",
        "credit_waits": "publishers are faster than the engine; alert WsBrokerPublishersWait",
    },
    "History and presence": {
        "history_bytes": "at the limit channels are forgotten",
        "history_limit_bytes": "beside history_bytes",
        "history_messages": "for sizing",
        "history_channels": "for sizing",
        "history_evicted_channels": "any growth: clients that come back miss something; alert WsBrokerHistoryEvicted",
        "resumes": "incomplete: clients are away for longer than is kept; alert WsBrokerResumesIncomplete",
        "presence_members": "against limits.presence_members",
    },
    "HTTP API and identities": {
        "api_requests": "do back ends get through? alerts WsBrokerApiFails, WsBrokerApiKeysRefused",
        "api_request_seconds": "alert WsBrokerApiSlow",
        "api_waiting_publishes": "above 0 for long: the engine is behind",
        "tokens": "mostly refused: a key or a clock is wrong; alert WsBrokerTokensRefused",
        "key_fetches": "failed: new keys are not known; alert WsBrokerKeyFetchesFail",
        "hook_questions": "failed: clients cannot connect; alert WsBrokerHookFails",
    },
}


def families() -> dict[str, Metric]:
    """What a broker of two workers shows that has just started, every dangerous setting in force; no process runs."""
    page = Page.new(WORKERS)
    try:
        for index in range(WORKERS):
            row = page.row(worker_slot(index, 0))
            row.begin(os.getpid())
            row.heartbeat_ns = 1
        config = Config(
            server=Server(dev=True, dev_on_any_address=True, origins=["*"], anyone_may_publish_from_anywhere=True),
            auth=Auth(allow_tokens_in_urls_that_get_logged=True),
        )
        shown = list(Collector(page, Facts(config, PatternPlaces(), lambda: True)).collect())
    finally:
        os.close(page.fd)
    return {family.name.removeprefix("wsbroker_"): family for family in shown}


def document() -> str:
    shown = families()
    explained = [name for metrics in SECTIONS.values() for name in metrics]
    assert sorted(explained) == sorted(shown), f"not in both: {set(explained) ^ set(shown)}"
    parts = [INTRODUCTION]
    for title, metrics in SECTIONS.items():
        parts.append(f"## {title}\n\n| Metric | Type | Labels | What it is | When to look |\n|---|---|---|---|---|\n")
        parts[-1] += "".join(_row(shown[name], name, when) for name, when in metrics.items())
    return "\n".join(parts)


def _row(family: Metric, name: str, when: str) -> str:
    shown = f"`{name}_total`" if family.type == "counter" else f"`{name}`"
    meaning = family.documentation.replace("|", "\\|")
    return f"| {shown} | {family.type} | {_labels(family)} | {meaning} | {when} |\n"


def _labels(family: Metric) -> str:
    values: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in values.setdefault(label, []):
                values[label].append(value)
    return "; ".join(_label(label, found) for label, found in values.items())


def _label(label: str, values: list[str]) -> str:
    closed = label not in OPEN_LABELS or (label == "reason" and len(values) <= MOST_LISTED)
    shown = ", ".join(f"`{value}`" for value in values) if closed else OPEN_LABELS[label]
    return f"`{label}`: {shown}" if shown else f"`{label}`"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
