"""A panel of the Grafana board and the queries in it, in the words of tests/tools/board_panels.py."""

from typing import Literal, NamedTuple


class Query(NamedTuple):
    """`legend`: as Grafana's, {{label}} stands for its value."""

    expression: str
    legend: str = ""


class Wanted(NamedTuple):
    """One panel. `unit`: of Grafana's. `bad`: from this value on a stat is red (below it, if it is negative: -1 = below
    1).
    """

    kind: Literal["stat", "lines", "heat"]
    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    stacked: bool = False
    bad: float | None = None


def rate(metric: str) -> str:
    return f"rate({metric}[$__rate_interval])"


def total(metric: str, legend: str = "") -> Query:
    return Query(f"sum({rate(metric)})", legend)


def quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, sum by (le) ({rate(f'{histogram}_bucket')}))"


def by(label: str, metric: str) -> Query:
    """A counter's rate, one line for each value of the label."""
    return Query(f"sum by ({label}) ({rate(metric)})", f"{{{{{label}}}}}")


def quantiles(histogram: str, *shares: float) -> tuple[Query, ...]:
    return tuple(Query(quantile(share, histogram), f"p{share * 100:g}") for share in shares or (0.5, 0.99))


def each_worker(metric: str) -> Query:
    return Query(f"sum by (instance, worker) ({metric})", "{{instance}} worker {{worker}}")
