"""The alerts: promtool takes them, each fires when it has to and is quiet when all is well, each is explained."""

import re

import pytest
import yaml

from tests.deploy.promql import ALERTS, ALERTS_TEST, CONFIG, ROOT, RUNBOOK, alerts, promtool

SEVERITIES = {"critical", "warning", "info"}


def runbook() -> dict[str, str]:
    """The sections of docs/runbook.md that an alert leads to, by their headings."""
    parts = re.split(r"^### (.+)\n", RUNBOOK.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_prometheus_takes_the_configuration_with_its_rules() -> None:
    done = promtool("check", "config", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


def test_every_alert_fires_when_it_has_to_and_not_before() -> None:
    done = promtool("test", "rules", ALERTS_TEST)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_without_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [case for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(alerts())
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_bad_it_is_what_happened_and_where_it_is_explained(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in SEVERITIES
    annotations = alert["annotations"]
    assert list(annotations) == ["summary", "description", "runbook_url"]
    assert len(annotations["summary"]) <= 100, "it is the title of a notification"
    page, anchor = annotations["runbook_url"].split("#")
    # The anchor that both GitHub and MkDocs make of the heading.
    assert (ROOT / page, anchor) == (RUNBOOK, name.lower())


def test_the_runbook_has_a_section_for_each_alert_in_the_same_order() -> None:
    assert list(runbook()) == list(alerts())


@pytest.mark.parametrize("name", alerts())
def test_a_section_of_the_runbook_says_what_it_means_how_to_see_it_what_to_do_and_how_to_verify(name: str) -> None:
    section = runbook()[name]
    assert re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE) == [
        "What it means.",
        "How to see it.",
        "What to do.",
        "How to verify.",
    ]


def test_a_misspelt_rule_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    broken = tmp_path_factory.mktemp("rules") / "alerts.yml"
    broken.write_text(ALERTS.read_text().replace("histogram_quantile", "histogram_quantil", 1))
    assert promtool("check", "rules", broken).returncode != 0
