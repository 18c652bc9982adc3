"""What the alerts, the board and their documents ask Prometheus, read from the files themselves.

Whether an expression is PromQL is promtool's to say; here is only found which metrics and labels it names.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
ALERTS_TEST = ROOT / "tests" / "deploy" / "alerts_test.yml"
BOARD = ROOT / "deploy" / "grafana" / "dashboards" / "ws-broker.json"
RUNBOOK = ROOT / "docs" / "runbook.md"

# What Grafana puts into the place of its variables before it asks.
_VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": "ws-broker", "$instance": ".*"}

_SELECTOR = re.compile(r"\b(wsbroker_[a-z_]+)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'([a-z]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


class Asked(NamedTuple):
    """A metric as an expression names it; `values` are those a label is compared with, alternatives taken apart."""

    metric: str
    values: frozenset[tuple[str, str]]
    labels: frozenset[str]


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name, in the order of the file."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels() -> Iterator[dict[str, Any]]:
    """Everything on the board but the headings of its rows."""
    for panel in json.loads(BOARD.read_text())["panels"]:
        yield from panel.get("panels", []) if panel["type"] == "row" else [panel]


def board_expressions() -> dict[str, str]:
    """By the panel's title and the query's letter, as Prometheus is asked."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in _VARIABLES.items():
                expression = expression.replace(variable, value)
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


def asked(expressions: Iterable[str]) -> Iterator[Asked]:
    for expression in expressions:
        for metric, selector in _SELECTOR.findall(expression):
            matchers = _MATCHER.findall(selector)
            yield Asked(
                metric,
                frozenset((label, value) for label, _, values in matchers for value in values.split("|")),
                frozenset(label for label, _, _ in matchers),
            )
