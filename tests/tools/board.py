"""Writes deploy/grafana/dashboards/ws-broker.json, the Grafana board.

    make docs-reference

With Grafana Labs' own grafana-foundation-sdk: what its builders write is what Grafana's schema has; grafanalib, the
older choice, has no types and no heat maps of today. The file is made, not edited; a test compares the two.
"""

import json
import re
from pathlib import Path

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model

from tests.tools.board_panels import ROWS
from tests.tools.board_queries import Query, Wanted

FILE = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards" / "ws-broker.json"

_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_CHOSEN = 'job=~"$job", instance=~"$instance"'
_METRIC = re.compile(r"\b(wsbroker_[a-z_]+)\b(?:\{([^}]*)\})?")


def chosen(expression: str) -> str:
    """The expression for what the board's variables choose."""
    return _METRIC.sub(lambda found: f"{found[1]}{{{', '.join(filter(None, [_CHOSEN, found[2]]))}}}", expression)


def _target(number: int, query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(chosen(query.expression)).legend_format(query.legend).ref_id(chr(65 + number))


def _stat(wanted: Wanted) -> stat.Panel:
    panel = (
        stat.Panel()
        .height(4)
        .span(3)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    if wanted.unit == "none":
        panel = panel.span(8).text_mode(common.BigValueTextMode.NAME).graph_mode(common.BigValueGraphMode.NONE)
    steps = [dashboard.Threshold(None, "green")]
    if wanted.bad is not None:
        low, high = ("green", "red") if wanted.bad > 0 else ("red", "green")
        steps = [dashboard.Threshold(None, low), dashboard.Threshold(abs(wanted.bad), high)]
    return panel.thresholds(builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))


def _lines(wanted: Wanted) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .height(8)
        .span(8)
        .min(0)
        .fill_opacity(25 if wanted.stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if wanted.stacked:
        panel = panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    return panel


def _heat(wanted: Wanted) -> heatmap.Panel:
    return (
        heatmap.Panel()
        .height(8)
        .span(12)
        .calculate(False)
        .cell_gap(1)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit(wanted.unit).axis_placement(common.AxisPlacement.LEFT))
    )


def _panel(wanted: Wanted) -> stat.Panel | timeseries.Panel | heatmap.Panel:
    panel = _stat(wanted) if wanted.kind == "stat" else _lines(wanted) if wanted.kind == "lines" else _heat(wanted)
    panel = panel.title(wanted.title).description(wanted.text).unit(wanted.unit).datasource(_SOURCE)
    for number, query in enumerate(wanted.queries):
        target = _target(number, query)
        if wanted.kind == "heat":
            target = target.format(prometheus_model.PromQueryFormat.HEATMAP)
        panel = panel.with_target(target.instant() if wanted.unit == "none" else target.range())
    return panel


def _variable(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_SOURCE)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def board() -> str:
    """The file's text."""
    made = (
        builders.Dashboard("ws-broker")
        .uid("ws-broker")
        .description(
            "What ws-broker does, from its metrics (admin port, /metrics). docs/metrics.md says what each means."
        )
        .tags(["ws-broker"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .editable()
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("job", "Job", "label_values(wsbroker_build_info, job)"))
        .with_variable(_variable("instance", "Broker", 'label_values(wsbroker_build_info{job=~"$job"}, instance)'))
    )
    number = 0
    for title, panels in ROWS.items():
        number += 1
        made = made.with_row(builders.Row(title).id(number))
        for wanted in panels:
            number += 1
            made = made.with_panel(_panel(wanted).id(number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(board())
