"""What Prometheus is shown: every number of the page once, nothing that goes back, nothing of the dead, few labels."""

import os
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from broker.config.schema import Auth, Config, Server
from broker.metrics import catalogue
from broker.metrics.collector import registry
from broker.metrics.facts import Facts
from broker.metrics.page import ACCEPTING, ENGINE, Page, worker_slot
from broker.metrics.patterns import PatternPlaces
from broker.native import _counters
from broker.native._counters import NAMES
from broker.native._histogram import observe


class Shown:
    """What one scrape says, by series."""

    def __init__(self, shown: CollectorRegistry) -> None:
        text = generate_latest(shown).decode()
        self.families: dict[str, Metric] = {family.name: family for family in text_string_to_metric_families(text)}
        self.series = {
            (sample.name.removeprefix("wsbroker_"), *sorted(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        return self.series[name,]

    def of(self, name: str, **labels: str) -> float:
        return self.series[name, *sorted(labels.items())]


class Broker:
    def __init__(self, config: Config | None = None) -> None:
        self.page = Page.new(2)
        self.patterns = PatternPlaces()
        self.facts = Facts(config or Config(), self.patterns, lambda: True, clock=lambda: 1_000.5)
        self.registry = registry(self.page, self.facts)

    def add(self, slot: int, **numbers: int) -> None:
        for name, number in numbers.items():
            self.page.row(slot).counters[NAMES.index(name)] += number

    def scrape(self) -> Shown:
        return Shown(self.registry)


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    os.close(made.page.fd)


W0, W1 = worker_slot(0, 0), worker_slot(1, 0)


def test_counters_of_all_processes_add_up_and_a_dead_one_takes_none_away(broker: Broker) -> None:
    broker.add(W0, n_opened=3, n_accepted=5, n_dropped_latest=2, g_connections=2)
    broker.add(W1, n_opened=4, n_accepted=4, g_connections=4)
    broker.add(ENGINE, n_link_lost=7)
    for dead in ((), (W1, ENGINE)):
        for slot in dead:
            broker.page.retire(slot)
        shown = broker.scrape()
        assert shown.of("handshakes_total", result="opened") == 7
        assert shown.of("accepts_total", worker="0") == 5
        assert shown.of("accepts_total", worker="1") == 4
        assert shown.of("deliveries_total", stage="dropped") == 2
        assert shown.of("deliveries_dropped_total", policy="latest") == 2
        assert shown["engine_link_lost_messages_total"] == 7
        assert shown.of("connections", worker="1") == (0 if dead else 4)


def test_two_generations_of_a_worker_during_a_reload_are_one_worker(broker: Broker) -> None:
    after = worker_slot(0, 1)
    broker.add(W0, g_connections=10, g_connections_limit=100, n_accepted=10, g_oldest_ns=2_000_000_000)
    broker.add(after, g_connections=3, g_connections_limit=100, n_accepted=3, g_oldest_ns=500_000_000)
    shown = broker.scrape()
    assert shown.of("connections", worker="0") == 13
    assert shown.of("connections_limit", worker="0") == 100
    assert shown.of("queue_oldest_seconds", worker="0") == pytest.approx(2)
    broker.page.retire(W0)
    assert broker.scrape().of("accepts_total", worker="0") == 13
    assert broker.scrape().of("connections", worker="0") == 3


def test_a_number_that_is_part_of_two_counters_is_shown_once_and_never_goes_back(broker: Broker) -> None:
    broker.add(W0, n_refused_http=9, n_refused_upgrades=2, n_refused_total=1, n_refused_address=1, n_refused_blocked=1)
    broker.add(W0, n_api_unauthenticated=5, n_api_unknown_keys=2)
    shown = broker.scrape()
    assert shown.of("handshakes_total", result="refused_http") == 4
    assert shown.of("handshakes_total", result="overloaded") == 2
    assert shown.of("handshakes_total", result="full") == 1
    assert shown.of("api_requests_total", result="unauthenticated") == 3
    # The worker is between the two additions that one refusal makes.
    broker.add(W0, n_refused_upgrades=1)
    assert broker.scrape().of("handshakes_total", result="refused_http") == 4
    broker.add(W0, n_refused_http=2)
    assert broker.scrape().of("handshakes_total", result="refused_http") == 5


def test_a_histogram_has_cumulative_buckets_in_seconds_and_a_sum_that_survives_its_worker(broker: Broker) -> None:
    first = _counters.HISTOGRAMS["loop_lag_ns"]
    for ns in (-5, 50_000, 50_001, 3_000_000_000, 99_000_000_000):
        observe(broker.page.row(W0).counters, first, ns)
    broker.page.retire(W0)
    shown = broker.scrape()
    assert shown.of("loop_lag_seconds_bucket", le="5e-05") == 2
    assert shown.of("loop_lag_seconds_bucket", le="0.0001") == 3
    assert shown.of("loop_lag_seconds_bucket", le="2.5") == 3
    assert shown.of("loop_lag_seconds_bucket", le="5.0") == 4
    assert shown.of("loop_lag_seconds_bucket", le="+Inf") == shown["loop_lag_seconds_count"] == 5
    assert shown["loop_lag_seconds_sum"] == pytest.approx(102.000100001)


def test_a_time_for_a_histogram_that_does_not_exist_is_refused(broker: Broker) -> None:
    for first in (-1, _counters.SIZE - _counters.BUCKETS):
        with pytest.raises(IndexError):
            observe(broker.page.row(W0).counters, first, 1)


def test_patterns_keep_their_counters_whatever_a_reload_brings(broker: Broker) -> None:
    before = broker.patterns.assign(["news", "room.*"])
    broker.add(W0, **{f"n_pattern_messages_{before['room.*']}": 4, "n_pattern_deliveries_0": 1})
    after = broker.patterns.assign(["chat.>", "room.*"])
    assert after["room.*"] == before["room.*"]
    assert after["chat.>"] not in before.values()
    shown = broker.scrape()
    assert shown.of("pattern_messages_total", pattern="room.*") == 4
    assert shown.of("pattern_messages_total", pattern="chat.>") == 0
    assert shown.of("pattern_messages_total", pattern="news") == 0
    assert shown.of("pattern_deliveries_total", pattern="(none)") == 1


def test_patterns_beyond_the_places_share_one_series(broker: Broker) -> None:
    places = broker.patterns.assign([f"p{number}" for number in range(200)])
    assert max(places.values()) == _counters.PATTERN_PLACES - 1
    labels = {key[1][1] for key in broker.scrape().series if key[0] == "pattern_messages_total"}
    assert len(labels) == _counters.PATTERN_PLACES
    assert {"(none)", "(other)", "p0", "p63"} <= labels


def test_unsafe_settings_in_force_are_shown_by_name_and_no_others() -> None:
    assert not [key for key in Broker().scrape().series if key[0] == "unsafe_setting"]
    server = Server(origins=["*"], dev=True)
    shown = Broker(Config(server=server, auth=Auth(allow_tokens_in_urls_that_get_logged=True))).scrape()
    assert sorted(key[1][1] for key in shown.series if key[0] == "unsafe_setting") == [
        "auth.allow_tokens_in_urls_that_get_logged",
        "server.dev",
        "server.origins",
    ]


def test_what_the_main_process_knows_is_shown(broker: Broker) -> None:
    broker.facts.process_started("worker")
    broker.facts.process_died("worker", "stuck")
    broker.facts.reloaded(None)
    broker.facts.draining = True
    shown = broker.scrape()
    assert shown.of("process_starts_total", process="worker") == 1
    assert shown.of("process_deaths_total", process="worker", reason="stuck") == 1
    assert shown.of("process_deaths_total", process="engine", reason="exit") == 0
    assert shown.of("reloads_total", result="refused") == 1
    assert (shown["draining"], shown["engine_up"], shown["start_time_seconds"]) == (1, 1, 1000.5)


def test_a_heartbeat_is_shown_of_workers_that_live_only(broker: Broker) -> None:
    row = broker.page.row(W1)
    row.state, row.heartbeat_ns = ACCEPTING, 1
    ages = {key: age for key, age in broker.scrape().series.items() if key[0] == "heartbeat_age_seconds"}
    assert [key[1] for key in ages] == [("worker", "1")]
    assert all(age > 0 for age in ages.values())
    assert broker.scrape().of("workers", state="accepting") == 1


def test_every_counter_of_the_page_is_shown_by_some_metric() -> None:
    parts = [part for one in (*catalogue.COUNTERS, *catalogue.GAUGES) for part in one.parts]
    shown = {name for part in parts for name in (*part.names, *part.less)}
    shown |= {one.column for one in (*catalogue.WORKER_COUNTERS, *catalogue.WORKER_GAUGES)}
    assert shown <= set(NAMES), "the catalogue names what is not counted"
    # Steps of the machinery that tests and benchmarks look at, and what others are made of.
    inner = {
        *("n_requests", "n_messages_received", "n_events", "n_events_dropped", "n_frames_encoded", "n_pongs_coalesced"),
        *("n_flushes", "n_input_pauses", "g_refused", "g_frames", "g_slots"),
    }
    assert {name for name, _ in _counters.TABLE} - shown == inner


def test_whoever_asks_for_openmetrics_gets_every_family_once(broker: Broker) -> None:
    text = generate_openmetrics(broker.registry).decode()  # type: ignore[no-untyped-call]
    names = [family.name for family in read_openmetrics(text)]  # type: ignore[no-untyped-call]
    assert len(names) == len(set(names)) > 60


def test_names_follow_the_conventions_of_prometheus_and_every_metric_says_what_it_is(broker: Broker) -> None:
    for name, family in broker.scrape().families.items():
        assert name.startswith("wsbroker_")
        assert family.documentation
        assert not name.endswith("_total")
        assert family.type in ("counter", "gauge", "histogram")
        if "seconds" in name or family.type == "histogram":
            assert name.endswith(("_seconds", "_deliveries"))
