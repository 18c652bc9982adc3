"""What a load test found is judged: a loss, a missing verdict, or a broker that died, none of them ends well."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from loadtests.locustfiles.outcome import PREFIX, Outcome

COLUMNS = ("Type", "Name", "Request Count", "Failure Count", "50%", "95%", "99%")
VERDICT: dict[str, Any] = {
    "problems": [],
    "warnings": [],
    "workers": 2,
    "most_sockets": 5000,
    "received": 300_000,
    "lost": 0,
    "repeated": 0,
    "told": 0,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a good run leaves."""
    write(tmp_path, VERDICT)
    with (tmp_path / f"{PREFIX}_stats.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerow(("WS", "delivery", 300_000, 0, 2, 5, 9))
        table.writerow(("LOSS", "missing message", 0, 0, "N/A", "N/A", "N/A"))
        table.writerow(("", "Aggregated", 300_000, 0, 2, 5, 9))
    return tmp_path


def write(folder: Path, verdict: dict[str, Any]) -> None:
    (folder / f"{PREFIX}_verdict.json").write_text(json.dumps(verdict))


def test_a_run_without_a_problem_is_good_and_says_how_many_sockets_there_were(folder: Path) -> None:
    outcome = Outcome.read(folder, [])
    assert outcome.ok
    assert outcome.document()["ok"] is True
    assert "+ 5000 sockets at once from 2 processes" in outcome.text()
    assert "300000 deliveries, 0 lost" in outcome.text()


def test_the_table_has_a_line_for_each_row_and_none_for_the_sum_of_unlike_things(folder: Path) -> None:
    text = Outcome.read(folder, []).text()
    (delivery,) = [line.split() for line in text.splitlines() if line.startswith("  WS ")]
    assert delivery == ["WS", "delivery", "300000", "0", "2", "5", "9"]
    (loss,) = [line.split() for line in text.splitlines() if line.startswith("  LOSS ")]
    assert loss[-3:] == ["-", "-", "-"]
    assert "Aggregated" not in text


def test_what_the_master_found_missing_fails_the_run(folder: Path) -> None:
    write(folder, {**VERDICT, "lost": 7, "problems": ["7 x LOSS missing message"]})
    outcome = Outcome.read(folder, [])
    assert not outcome.ok
    assert "! 7 x LOSS missing message" in outcome.text()
    assert "+ 5000" not in outcome.text()


def test_a_broker_that_died_fails_a_run_that_locust_is_content_with(folder: Path) -> None:
    outcome = Outcome.read(folder, ["the broker died with status -9"])
    assert not outcome.ok
    assert outcome.document()["problems"] == ["the broker died with status -9"]


def test_a_run_whose_master_came_to_no_verdict_is_no_good_run(tmp_path: Path) -> None:
    outcome = Outcome.read(tmp_path, [])
    assert not outcome.ok
    assert "locust came to no verdict" in outcome.text()


def test_a_generator_that_was_late_itself_is_told_and_does_not_fail_the_run(folder: Path) -> None:
    write(folder, {**VERDICT, "warnings": ["the generator itself was 300 ms late"]})
    outcome = Outcome.read(folder, [])
    assert outcome.ok
    assert "? the generator itself was 300 ms late" in outcome.text()
