"""The Grafana board: the file is what its source makes, of Grafana's schema, and asks nothing that is no PromQL."""

import json
from pathlib import Path

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.promql import BOARD, ROOT, board_expressions, panels, promtool
from tests.tools.board import board

# Of Grafana 11.6; later ones read it and bring it up to date by themselves.
SCHEMA_VERSION = 41
COLUMNS = 24


def test_the_board_is_what_its_source_makes() -> None:
    assert BOARD.read_text() == board(), "run `make docs-reference`"


def test_the_board_holds_nothing_that_grafana_does_not_know() -> None:
    written = json.loads(BOARD.read_text())
    assert written["schemaVersion"] == SCHEMA_VERSION
    # The models of Grafana's schema keep what they know, and nothing else.
    assert json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder)) == written


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in panels():
        title = panel["title"]
        assert panel["description"].endswith("."), title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["targets"], title
        assert panel["datasource"]["uid"] == "${datasource}", title
        assert all("$instance" in target["expr"] for target in panel["targets"] if "wsbroker_" in target["expr"]), title


def test_no_panel_lies_over_another_or_beyond_the_edge() -> None:
    taken: dict[tuple[int, int], str] = {}
    every = json.loads(BOARD.read_text())["panels"]
    for panel in every:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS, panel["title"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"], (panel["title"], taken[cell])
    assert len({panel["id"] for panel in every}) == len(every)


def test_every_query_of_the_board_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"board:query:{number}", "expr": expression}
        for number, expression in enumerate(board_expressions().values())
    ]
    (tmp_path / "board.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = promtool("check", "rules", tmp_path / "board.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_grafana_is_told_where_the_board_and_prometheus_are() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "ws-broker.yml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    readme = (ROOT / "deploy" / "grafana" / "README.md").read_text()
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in readme
    assert source["url"] == "${PROMETHEUS_URL}"
    assert "PROMETHEUS_URL=" in readme
