"""Debian's Prometheus watches a broker of two workers while one of them is killed: what an operator sees of it."""

import os
import signal
from contextlib import closing
from pathlib import Path

from tests.process.admin import FLAGS
from tests.process.books import until
from tests.process.command import Served, serving
from tests.process.load import JsonClient
from tests.process.prometheus import JOB, Prometheus, now, watching
from tests.process.supervised import A_WORKER, client_of, configuration, workers

EVERYTHING = '{__name__=~"wsbroker_.+"}'
COUNTERS = '{__name__=~"wsbroker_.+_(total|bucket|sum|count)"}'
MOST_SERIES = 400
COUNT = 100
OFFER = "broker.json.v1, news"


def publish(client: JsonClient, count: int = COUNT) -> int:
    """So many messages, each acknowledged; returns how many."""
    for number in range(count):
        client.ask(type="publish", channel="news", text=f"message {number}")
    return count


def joined(broker: Served, index: int) -> JsonClient:
    """A client of this worker, subscribed."""
    return JsonClient(broker, client=client_of(broker, workers(broker)[index], OFFER))


def killed(broker: Served, index: int) -> None:
    """The worker is gone, and another accepts in its place."""
    os.kill(workers(broker)[index], signal.SIGKILL)
    broker.logged("child accepts", 3, child=A_WORKER)


def check_that_no_counter_ever_fell(prometheus: Prometheus) -> None:
    counters = prometheus.query(f"{COUNTERS}[1h]")
    names = {series.name for series in counters}
    assert {"wsbroker_messages_total", "wsbroker_accepts_total", "wsbroker_loop_lag_seconds_bucket"} <= names
    for name in names:
        assert prometheus.query(f"resets({name}[1h]) > 0") == []  # as rate() and increase() see it
    for series in counters:
        values = [value for _, value in series.samples]
        assert values == sorted(values), series.labels


def check_that_no_series_came_or_went(prometheus: Prometheus, at: float) -> None:
    """None is stale. Only the age of the dead worker's heartbeat may be away until another heart beats in its place."""
    (up,) = prometheus.query(f'up{{job="{JOB}"}}[1h]', at)
    when = [moment for moment, value in up.samples if value == 1]
    assert when[-1] == at
    everything = prometheus.query(f"{EVERYTHING}[1h]", at)
    for series in everything:
        moments = [moment for moment, _ in series.samples]
        if series.name == "wsbroker_heartbeat_age_seconds" and series.labels["worker"] == "0":
            assert set(moments) <= set(when)
            assert moments[-1] == at
        else:
            assert moments == when, series.labels
    assert prometheus.value("scrape_samples_scraped", at) == len(everything) < MOST_SERIES
    assert "ingesting" not in prometheus.log.read_text()


def test_a_killed_worker_takes_no_count_with_it_and_leaves_no_number_behind(tmp_path: Path) -> None:
    with (
        serving("--workers", "2", *FLAGS, *configuration(tmp_path)) as broker,
        watching(broker.admin_url.removeprefix("http://"), tmp_path) as prometheus,
        closing(joined(broker, 0)) as doomed,
        closing(joined(broker, 1)) as spared,
    ):
        published = publish(doomed) + publish(spared)
        before = prometheus.scrape_of(now())
        for worker in ("0", "1"):
            assert prometheus.value(f'wsbroker_sessions{{worker="{worker}"}}', before) == 1

        killed(broker, 0)
        published += publish(spared)
        between = prometheus.scrape_of(now())
        assert prometheus.value('wsbroker_connections{worker="0"}', between) == 0, "of the dead"
        assert prometheus.value("wsbroker_subscriptions", between) == 1
        with closing(joined(broker, 0)) as replacing:
            published += publish(replacing)
            after = prometheus.scrape_of(now())

        # Nothing that was counted is lost, by the dead worker neither, and nothing is counted twice.
        check_that_no_counter_ever_fell(prometheus)
        for stage in ("published", "sequenced"):
            assert prometheus.value(f'wsbroker_messages_total{{stage="{stage}"}}', after) == published
        opened = prometheus.value('wsbroker_handshakes_total{result="opened"}', after)
        assert prometheus.value("sum(wsbroker_accepts_total)", after) == opened
        assert prometheus.value('wsbroker_process_deaths_total{process="worker",reason="killed"}', after) == 1
        assert prometheus.value('wsbroker_process_starts_total{process="worker"}', after) == 3

        # Nothing of the dead worker is still there: its place is the replacement's.
        assert prometheus.value('wsbroker_workers{state="accepting"}', after) == 2
        for worker in ("0", "1"):
            assert prometheus.value(f'wsbroker_sessions{{worker="{worker}"}}', after) == 1
        assert prometheus.value("wsbroker_subscriptions", after) == 2
        assert prometheus.value("wsbroker_deliveries_queued", after) == 0

        check_that_no_series_came_or_went(prometheus, after)

        # Of all alerts exactly the one that says so.
        firing = {name for name, state in prometheus.alerts().items() if state == "firing"}
        assert firing == {"WsBrokerProcessDied"}
        assert broker.stop() == 0
        until(lambda: prometheus.alerts().get("WsBrokerDown") == "pending", prometheus.alerts().__repr__)
