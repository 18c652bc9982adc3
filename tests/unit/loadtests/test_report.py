"""A goal that was missed, or a reader that was cut, is seen in the table, in the JSON and in the exit code."""

import json

import pytest

from loadtests import bench
from loadtests.report import Result, document, table
from loadtests.server import BenchError


def result() -> Result:
    found = Result("beside", "a title")
    found.add("p99", 19.5, "ms", most=20.0)
    found.add("cut", 0, "", exactly=0)
    found.add("CPU", 80.0, "%")
    return found


def test_goals_that_were_met_make_a_good_result() -> None:
    assert result().ok


@pytest.mark.parametrize(("name", "value"), [("most", 20.001), ("exactly", 21.0)])
def test_a_missed_goal_spoils_the_result_and_is_marked(name: str, value: float) -> None:
    found = result()
    found.add("other", value, "ms", **{name: 20.0})
    assert not found.ok
    assert [line[2] for line in table(found).splitlines()[1:]] == ["+", "+", " ", "!"]


def test_a_failure_spoils_a_result_whose_numbers_are_good() -> None:
    found = result()
    found.failures.append("3 readers: close 4208")
    assert not found.ok
    assert table(found).endswith("  ! 3 readers: close 4208")
    assert document([result(), found])["ok"] is False


def test_the_document_is_json_and_says_on_what_machine() -> None:
    told = json.loads(json.dumps(document([result()])))
    assert told["ok"] is True
    assert told["machine"]["kernel"].startswith("Linux ")
    assert told["scenarios"][0]["rows"][0] == {
        "name": "p99",
        "value": 19.5,
        "unit": "ms",
        "most": 20.0,
        "exactly": None,
        "ok": True,
    }


@pytest.mark.parametrize("broken", [BenchError("the broker did not start"), ConnectionResetError("reset")])
def test_what_breaks_one_scenario_is_told_and_does_not_stop_the_others(broken: Exception) -> None:
    def run(progress: object) -> Result:
        raise broken

    found = bench.run_one("tiny", "a title", run, lambda line: None)
    assert found.failures == [str(broken)]
    assert not found.ok


@pytest.mark.parametrize("arguments", [["nonsense"], ["--scale", "0"], ["--scale", "2"]])
def test_wrong_flags_end_with_2_before_anything_is_started(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2


def test_the_help_names_every_scenario_and_how_to_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    for text in ("beside", "tiny", "stalled", "churn", "make bench", "--quick"):
        assert text in told
