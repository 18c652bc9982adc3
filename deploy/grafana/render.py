"""Draws the Grafana board with matplotlib, from a Prometheus that watches a broker: for documents, or without Grafana.

    python deploy/grafana/render.py http://127.0.0.1:9090 board.png --minutes 60
    python deploy/grafana/render.py URL board.png --rows Overview --rows Latency

It asks what the panels of dashboards/ws-broker.json ask, and lays them out as they are there. It is not Grafana:
colours, axes and legends are matplotlib's. Needs the group `loadtest` (matplotlib).
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator

BOARD = Path(__file__).resolve().parent / "dashboards" / "ws-broker.json"
COLUMNS = 24
POINTS = 240
# Of one cell of the board's grid.
CELL_WIDTH, CELL_HEIGHT = 0.6, 0.25  # inches
# Around the axes of a panel, in inches: left, right, above, below.
MARGINS = (0.55, 0.1, 0.24, 0.26)

Series = list[tuple[dict[str, str], list[float], list[float]]]


class Source:
    """A Prometheus, between two Unix times."""

    def __init__(self, url: str, start: float, end: float, rate_seconds: int) -> None:
        self.url = url.rstrip("/")
        self.start, self.end = start, end
        self.step = max(1.0, (end - start) / POINTS)
        self.rate = f"{max(rate_seconds, math.ceil(self.step))}s"

    def lines(self, expression: str) -> Series:
        for variable, value in {"$__rate_interval": self.rate, "$job": ".*", "$instance": ".*"}.items():
            expression = expression.replace(variable, value)
        asked = urlencode({"query": expression, "start": self.start, "end": self.end, "step": self.step})
        with urlopen(f"{self.url}/api/v1/query_range?{asked}") as answer:
            found = json.load(answer)["data"]["result"]
        return [
            (one["metric"], [at - self.start for at, _ in one["values"]], [float(value) for _, value in one["values"]])
            for one in found
        ]


def shown(value: float, unit: str) -> str:
    """As Grafana writes it."""
    if math.isnan(value):
        return ""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= scale or scale == 1e-6:
                return f"{value / scale:.3g} {name}" if value else "0 s"
    suffix = {"Bps": " B/s", "mps": "/s", "ops": "/s", "reqps": "/s"}.get(unit, "")
    for scale, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{name}{suffix}"
    return f"{value:.3g}{suffix}"


def legend(template: str, labels: dict[str, str]) -> str:
    for label, value in labels.items():
        template = template.replace(f"{{{{{label}}}}}", value)
    return template


def draw_stat(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.axis("off")
    (target,) = panel["targets"]
    found = source.lines(target["expr"])
    if unit == "none":
        text = "\n".join(legend(target["legendFormat"], labels) for labels, _, _ in found if labels) or "none"
        axes.text(0.5, 0.4, text, ha="center", va="center", fontsize=9, transform=axes.transAxes)
        return
    value = found[0][2][-1] if found else math.nan
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    colour = "black"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            colour = {"green": "tab:green", "red": "tab:red"}[step["color"]]
    axes.text(
        0.5, 0.4, shown(value, unit), ha="center", va="center", fontsize=17, color=colour, transform=axes.transAxes
    )


def draw_lines(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    stacked = panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    lines = [
        (legend(target["legendFormat"], labels), times, values)
        for target in panel["targets"]
        for labels, times, values in source.lines(target["expr"])
        if any(not math.isnan(value) for value in values)
    ]
    if stacked and lines:
        every = sorted({at for _, times, _ in lines for at in times})
        heights = [[dict(zip(times, values, strict=True)).get(at, 0.0) for at in every] for _, times, values in lines]
        names = [name if any(row) else "_" for (name, _, _), row in zip(lines, heights, strict=True)]
        axes.stackplot(every, heights, labels=names, alpha=0.6)
    else:
        for name, times, values in lines:
            axes.plot(times, values, label=name if any(values) else "_", linewidth=1.1)
    axes.set_ylim(bottom=0)
    if not lines:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="grey", transform=axes.transAxes)
    elif names := axes.get_legend_handles_labels()[1]:
        axes.set_ylim(top=axes.get_ylim()[1] * 1.3)
        axes.legend(fontsize=6, loc="upper left", frameon=False, ncols=4 if max(map(len, names)) < 20 else 2)


def draw_heat(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    (target,) = panel["targets"]
    found = sorted(source.lines(target["expr"]), key=lambda one: float(one[0]["le"]))
    times = sorted({at for _, every, _ in found for at in every})
    below = [[dict(zip(every, values, strict=True)).get(at, 0.0) for at in times] for _, every, values in found]
    cells = [
        [max(0.0, this - before) for this, before in zip(row, below[at - 1] if at else [0.0] * len(row), strict=True)]
        for at, row in enumerate(below)
    ]
    used = [at for at, row in enumerate(cells) if any(row)]
    if not used:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="grey", transform=axes.transAxes)
        return
    first, last = used[0], used[-1]
    axes.pcolormesh(times, range(first, last + 1), cells[first : last + 1], cmap="Oranges", norm=PowerNorm(0.5))
    names = [shown(float(labels["le"]), "s") for labels, _, _ in found[first : last + 1]]
    axes.set_yticks(range(first, last + 1), names)


def draw(board: dict[str, Any], source: Source, rows: Sequence[str]) -> pyplot.Figure:
    wanted: list[tuple[dict[str, Any], int]] = []
    shift, skipped, begun = 0, False, 0
    for panel in board["panels"]:
        at = panel["gridPos"]
        if panel["type"] == "row":
            if skipped:
                shift += at["y"] - begun
            skipped, begun = bool(rows) and panel["title"] not in rows, at["y"]
        if not skipped:
            wanted.append((panel, at["y"] - shift))
    height = max(y + panel["gridPos"]["h"] for panel, y in wanted)
    figure = pyplot.figure(figsize=(COLUMNS * CELL_WIDTH, height * CELL_HEIGHT))
    left, right, above, below = MARGINS
    for panel, y in wanted:
        at = panel["gridPos"]
        width, tall = at["w"] * CELL_WIDTH - left - right, at["h"] * CELL_HEIGHT - above - below
        if panel["type"] == "row":
            figure.text(0.01, 1 - (y + 0.5) / height, panel["title"], fontsize=11, fontweight="bold", va="center")
            continue
        axes = figure.add_axes(
            (
                (at["x"] * CELL_WIDTH + left) / (COLUMNS * CELL_WIDTH),
                1 - (y * CELL_HEIGHT + above + tall) / (height * CELL_HEIGHT),
                width / (COLUMNS * CELL_WIDTH),
                tall / (height * CELL_HEIGHT),
            )
        )
        axes.set_title(panel["title"], fontsize=8, loc="left")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        {"stat": draw_stat, "timeseries": draw_lines, "heatmap": draw_heat}[panel["type"]](axes, panel, source)
        axes.tick_params(labelsize=6)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 3, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds / 60:.3g} min" if seconds else "0"))
        if panel["type"] == "timeseries":
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: shown(value, unit)))
            axes.grid(alpha=0.25, linewidth=0.5)
            axes.set_xlim(0, source.end - source.start)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("prometheus", help="its address, as http://127.0.0.1:9090")
    arguments.add_argument("picture", type=Path)
    arguments.add_argument("--minutes", type=float, default=60.0)
    arguments.add_argument("--rate-seconds", type=int, default=60, help="four times the scrape interval")
    arguments.add_argument("--rows", action="append", default=[], help="only these rows of the board")
    arguments.add_argument("--dpi", type=int, default=80)
    given = arguments.parse_args()
    now = time.time()
    source = Source(given.prometheus, now - given.minutes * 60, now, given.rate_seconds)
    figure = draw(json.loads(BOARD.read_text()), source, given.rows)
    figure.savefig(given.picture, dpi=given.dpi, facecolor="white")


if __name__ == "__main__":
    main()
