"""The shared page and the facts of the main process as Prometheus metrics.

One collector of prometheus-client's over memory that all processes write: its multiprocess mode, the usual choice,
writes a file for each process, allows no collector of one's own, and keeps the gauges of the dead. Nothing here is per
channel, user or address, so the number of series is bounded by the configuration.
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector
from prometheus_client.registry import CollectorRegistry

from broker import __version__
from broker.metrics import catalogue
from broker.metrics.facts import Facts
from broker.metrics.page import ACCEPTING, DRAINING, EMPTY, STARTING, Page, Row
from broker.native import _build, _counters, _histogram
from broker.native._counters import NAMES

PREFIX = "wsbroker_"

_STATES = {"starting": STARTING, "accepting": ACCEPTING, "draining": DRAINING}
_PLACE = {name: place for place, name in enumerate(NAMES)}
_INFINITY = "+Inf"


class Collector(PrometheusCollector):
    """`clock_ns` is CLOCK_MONOTONIC, as the heartbeats are."""

    def __init__(self, page: Page, facts: Facts, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._page = page
        self._facts = facts
        self._clock_ns = clock_ns
        # A difference of two counters that are not read in one moment could seem to go back, which to Prometheus is a
        # new start: each is shown only as far as it has gone before.
        self._highest: dict[tuple[str, str | None], int] = {}

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected at registration: the workers have not begun yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        totals = self._page.sums()
        yield from self._main_process()
        yield from self._workers()
        for one in catalogue.COUNTERS:
            yield self._counter(one, totals)
        for one in catalogue.GAUGES:
            yield _gauge(one, totals)
        for name, column, text in catalogue.HISTOGRAMS:
            yield _histogram_of(name, column, text, totals)
        yield from self._patterns(totals)

    def _main_process(self) -> Iterator[Metric]:
        facts = self._facts
        build = GaugeMetricFamily(
            f"{PREFIX}build_info", "1; which broker this is", labels=("version", "python", "core")
        )
        build.add_metric((__version__, platform.python_version(), _build.BUILD), 1)
        yield build
        yield GaugeMetricFamily(
            f"{PREFIX}start_time_seconds", "Unix time at which the main process started", value=facts.started_at
        )
        unsafe = GaugeMetricFamily(
            f"{PREFIX}unsafe_setting", "1 for each setting in force that gives up some safety", labels=("setting",)
        )
        for setting in facts.unsafe:
            unsafe.add_metric((setting,), 1)
        yield unsafe
        yield GaugeMetricFamily(
            f"{PREFIX}draining",
            "1 while the broker ends: it is told to, and connections are sent away",
            value=facts.draining,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}engine_up", "1 if the engine serves: publishes can be sequenced", value=facts.engine_up()
        )
        starts = CounterMetricFamily(f"{PREFIX}process_starts", "Processes started", labels=("process",))
        for process, count in facts.starts.items():
            starts.add_metric((process,), count)
        yield starts
        deaths = CounterMetricFamily(
            f"{PREFIX}process_deaths",
            "Processes that ended untold. exit: by themselves; killed: by a signal; stuck: by the supervisor",
            labels=("process", "reason"),
        )
        for (process, reason), count in facts.deaths.items():
            deaths.add_metric((process, reason), count)
        yield deaths
        reloads = CounterMetricFamily(f"{PREFIX}reloads", "Reloads (SIGHUP) by how they ended", labels=("result",))
        for result, count in facts.reloads.items():
            reloads.add_metric((result,), count)
        yield reloads
        limits = facts.config.limits
        yield GaugeMetricFamily(f"{PREFIX}memory_limit_bytes", "limits.memory_bytes", value=limits.memory_bytes)
        yield GaugeMetricFamily(f"{PREFIX}history_limit_bytes", "limits.history_bytes", value=limits.history_bytes)

    def _workers(self) -> Iterator[Metric]:
        page = self._page
        workers = [(str(index), page.worker_rows(index)) for index in range(page.workers)]
        states = GaugeMetricFamily(f"{PREFIX}workers", "Worker processes now, by state", labels=("state",))
        for word, state in _STATES.items():
            states.add_metric((word,), sum(row.state == state for _, rows in workers for row in rows))
        yield states
        beats = GaugeMetricFamily(
            f"{PREFIX}heartbeat_age_seconds", "Since the worker's loop last said that it turns", labels=("worker",)
        )
        now = self._clock_ns()
        for index, rows in workers:
            living = [row.heartbeat_ns for row in rows if row.state != EMPTY and row.heartbeat_ns]
            if living:
                beats.add_metric((index,), max(0, now - min(living)) / 1e9)
        yield beats
        for one in catalogue.WORKER_COUNTERS:
            accepts = CounterMetricFamily(PREFIX + one.name, one.text, labels=("worker",))
            for at in range(page.workers):
                accepts.add_metric((str(at),), _together(one, page.all_rows(at)))
            yield accepts
        for one in catalogue.WORKER_GAUGES:
            gauge = GaugeMetricFamily(PREFIX + one.name, one.text, labels=("worker",))
            for index, rows in workers:
                gauge.add_metric((index,), _together(one, rows))
            yield gauge

    def _counter(self, one: catalogue.Sum, totals: list[int]) -> Metric:
        family = CounterMetricFamily(PREFIX + one.name, one.text, labels=_labels(one))
        for part in one.parts:
            value = _sum(totals, part.names)
            if part.less:
                value -= _sum(totals, part.less)
                key = (one.name, part.label)
                value = self._highest[key] = max(value, self._highest.get(key, 0))
            family.add_metric(() if part.label is None else (part.label,), value)
        return family

    def _patterns(self, totals: list[int]) -> Iterator[Metric]:
        names = self._facts.pattern_names
        for name, column, text in catalogue.PATTERN_COUNTERS:
            family = CounterMetricFamily(PREFIX + name, text, labels=("pattern",))
            for place, pattern in names.items():
                family.add_metric((pattern,), totals[_PLACE[f"n_pattern_{column}_{place}"]])
            yield family


def registry(page: Page, facts: Facts) -> CollectorRegistry:
    """Of this broker alone: without what prometheus-client says of the process that happens to answer."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Collector(page, facts))
    return made


def _labels(one: catalogue.Sum) -> tuple[str, ...]:
    return () if one.label is None else (one.label,)


def _sum(totals: list[int], names: Iterable[str]) -> int:
    return sum(totals[_PLACE[name]] for name in names)


def _together(one: catalogue.PerWorker, rows: Iterable[Row]) -> float:
    values = [row.counters[_PLACE[one.column]] for row in rows]
    return (max(values) if one.how == "max" else sum(values)) * one.scale


def _gauge(one: catalogue.Sum, totals: list[int]) -> Metric:
    family = GaugeMetricFamily(PREFIX + one.name, one.text, labels=_labels(one))
    for part in one.parts:
        family.add_metric(() if part.label is None else (part.label,), _sum(totals, part.names))
    return family


def _histogram_of(name: str, column: str, text: str, totals: list[int]) -> Metric:
    first = _counters.HISTOGRAMS[column]
    in_ns = column.endswith("_ns")
    bounds = (
        [bound / 1e9 for bound in _histogram.TIME_BOUNDS_NS] if in_ns else [float(b) for b in _histogram.COUNT_BOUNDS]
    )
    buckets, below = [], 0
    for at in range(_counters.BUCKETS):
        below += totals[first + at]
        buckets.append((_INFINITY if at == len(bounds) else str(bounds[at]), below))
    total = totals[first + _counters.BUCKETS]
    family = HistogramMetricFamily(PREFIX + name, text)
    family.add_metric((), buckets, total / 1e9 if in_ns else total)
    return family
