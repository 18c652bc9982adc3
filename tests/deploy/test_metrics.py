"""The metrics: all are explained, and what alerts, board and runbook ask for is there, in a broker of two workers."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.promql import RUNBOOK, Asked, alerts, asked, board_expressions, promtool
from tests.process.admin import FLAGS, Admin
from tests.process.command import serving
from tests.tools.metrics_reference import DOCUMENT, SECTIONS, document

# Values of these are the operator's, or the build's.
OPEN_LABELS = {"job", "instance", "setting", "pattern"}


def runbook_expressions() -> list[str]:
    return re.findall(r"`([^`]*wsbroker_[^`]*)`", RUNBOOK.read_text())


class Shown:
    """What a broker shows that has just started: labels and their values by the name of a series."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self.series: dict[str, dict[str, set[str]]] = {}
        self.lines = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
        for family in text_string_to_metric_families(text):
            self.names.add(family.name.removeprefix("wsbroker_"))
            for sample in family.samples:
                labels = self.series.setdefault(sample.name, {})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)

    def lacks(self, one: Asked) -> str | None:
        """What of it is not there."""
        if one.metric not in self.series:
            return one.metric
        labels = self.series[one.metric]
        for label, value in sorted(one.values):
            if label not in OPEN_LABELS and value and value not in labels.get(label, set()):
                return f"{one.metric}: no {label}={value!r}"
        return None

    def lacking(self, *expressions: str) -> list[str]:
        wanted = list(asked(expressions))
        assert wanted, "nothing is asked"
        return [missing for one in wanted if (missing := self.lacks(one))]


@pytest.fixture(scope="module")
def shown() -> Shown:
    with serving("--workers", "2", *FLAGS) as broker:
        text = Admin(broker).ask("/metrics").text
        assert broker.stop() == 0
    return Shown(text)


def test_every_metric_of_the_alerts_exists_before_anything_has_happened(shown: Shown) -> None:
    assert shown.lacking(*(alert["expr"] for alert in alerts().values())) == []


def test_every_metric_of_the_board_exists(shown: Shown) -> None:
    assert shown.lacking(*board_expressions().values()) == []


def test_every_metric_of_the_runbook_exists(shown: Shown) -> None:
    # Where it names a metric by itself, a histogram is called by its name.
    named = {f"wsbroker_{name}" for name in shown.names}
    assert [missing for missing in shown.lacking(*runbook_expressions()) if missing not in named] == []


def test_a_metric_or_a_label_that_does_not_exist_is_found(shown: Shown) -> None:
    assert shown.lacking("rate(wsbroker_handshake_total[5m])") == ["wsbroker_handshake_total"]
    assert shown.lacking('wsbroker_workers{state=~"accepting|exploding"}') == ["wsbroker_workers: no state='exploding'"]
    assert shown.lacking('wsbroker_connections{channel="news"}') == ["wsbroker_connections: no channel='news'"]


def test_no_series_is_shown_twice(shown: Shown) -> None:
    assert len(shown.lines) == len(set(shown.lines)), "Prometheus keeps one of them, and says nothing"


def test_every_metric_is_explained(shown: Shown) -> None:
    assert DOCUMENT.read_text() == document(), "run `make docs-reference`"
    assert {name for metrics in SECTIONS.values() for name in metrics} == shown.names


def test_the_alerts_that_the_metrics_name_exist() -> None:
    assert set(re.findall(r"\bWsBroker\w+", DOCUMENT.read_text())) <= set(alerts())


def test_every_metric_of_the_runbook_is_on_the_board() -> None:
    def families(expressions: Iterable[str]) -> set[str]:
        return {re.sub("_(sum|bucket|count)$", "", one.metric) for one in asked(expressions)}

    assert families(runbook_expressions()) <= families(board_expressions().values())


def test_every_expression_of_the_runbook_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"runbook:{number}", "expr": one} for number, one in enumerate(runbook_expressions())]
    (tmp_path / "runbook.yml").write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "runbook.yml")
    assert done.returncode == 0, done.stdout + done.stderr
