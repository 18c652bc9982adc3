"""docs/admin-port.md: what it shows is what comes, and it explains every line that a probe can say."""

import re
from collections.abc import Iterator
from itertools import product

import pytest
import yaml

from broker.admin.health import Health, Process, live, ready
from tests.process.admin import FLAGS, Admin
from tests.process.command import ROOT, serving

PAGE = (ROOT / "docs/admin-port.md").read_text()
PATHS = {"/metrics", "/livez", "/readyz"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_what_it_shows_is_what_comes() -> None:
    (said,), (console,) = blocks("text"), blocks("console")
    with serving("--workers", "2", *FLAGS) as broker:
        assert f"{broker.admin_url}/metrics" == said.strip().removeprefix("metrics: ").replace(
            "http://127.0.0.1:9000", broker.admin_url
        )
        asked = re.findall(r"^\$ curl -s http://127\.0\.0\.1:9000(/\w+)\n((?:[^$].*\n)+)", console, re.MULTILINE)
        assert [path for path, _ in asked] == ["/livez", "/readyz"]
        for path, text in asked:
            assert Admin(broker).probe(path) == (200, text)
        assert broker.stop() == 0


def without_numbers(line: str) -> str:
    """As one line for every worker, engine and number; whether it is worker or engine tells nothing new."""
    line = re.sub(r"\b(worker \d+|engine)( \(pid \d+\))?", "WHO", line)
    return re.sub(r"\d+(\.\d+)?", "N", line)


def everything_said() -> Iterator[str]:
    """By a broker whose worker, engine, drain and limits are in every state."""
    states = [
        Process("worker 1", is_ready, seconds, stuck, full, linked)
        for seconds in (0.1, 3.0, 31.0)
        for is_ready, stuck, full, linked in product((True, False), repeat=4)
    ]
    engines = [None, [], *([engine._replace(name="engine")] for engine in states)]
    for worker, engine, draining, most in product(states, engines, (True, False), (0, 10)):
        health = Health(1, [worker], [], engine, draining, 10, most, 10.0, 30.0)
        for verdict in (live(health), ready(health)):
            yield from verdict.reasons


def test_it_explains_every_line_that_a_probe_can_say_and_no_other() -> None:
    tables = PAGE[PAGE.index("### `/livez`") : PAGE.index("## With Prometheus")]
    cells = re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE)
    explained = {without_numbers(line) for cell in cells for line in re.findall("`(.*?)`", cell)}
    assert explained == {without_numbers(line) for line in everything_said()}


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_yaml_is_of_this_port(text: str) -> None:
    for name, value in yaml.safe_load(text).items():
        if name.endswith("Probe"):
            assert value["httpGet"]["path"] in PATHS
            assert value["httpGet"]["port"] == 9000
        else:
            assert value[0]["static_configs"] == [{"targets": ["127.0.0.1:9000"]}]
