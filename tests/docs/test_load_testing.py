"""What docs/load-testing.md shows is what is there: its scenario is the crowd's, its flags are known."""

import re
import shlex

import pytest

from loadtests.locustfiles.run import EPILOG, FOLDER, SCENARIOS, parser
from loadtests.server import ROOT

TEXT = (ROOT / "docs/load-testing.md").read_text()
# Every flag that locustfiles add to locust's own.
LOCUST_FLAGS = set(re.findall(r'"(--[a-z-]+)"', (FOLDER / "options.py").read_text()))
ARGUMENTS = re.findall(r'make loadtest ARGS="(.*?)"', TEXT + EPILOG)


def test_the_scenario_that_is_shown_is_the_crowd() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    docstring, _, code = (FOLDER / "crowd.py").read_text().partition('"""\n\n')
    assert docstring.startswith('"""')
    assert shown == code


@pytest.mark.parametrize("arguments", [line for line in ARGUMENTS if line != "--help"])
def test_the_flags_that_are_shown_are_known(arguments: str) -> None:
    _, others = parser().parse_known_args(shlex.split(arguments))
    assert others == []


def test_every_scenario_has_a_row_and_a_locustfile() -> None:
    table = TEXT.partition("## Scenarios")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows == list(SCENARIOS)
    assert all((FOLDER / f"{name}.py").is_file() for name in rows)


def test_flags_that_the_page_hands_on_to_locust_are_those_of_the_scenarios() -> None:
    (sentence,) = re.findall(r"The rest goes to locust: (.*?)\n\n", TEXT, re.DOTALL)
    assert set(re.findall(r"`(--[a-z-]+)`", sentence)) <= LOCUST_FLAGS


@pytest.mark.parametrize("name", re.findall(r"\]\((loadtest/[^)]+)\)", TEXT))
def test_the_measured_run_is_attached(name: str) -> None:
    assert (ROOT / "docs" / name).is_file()
