"""The pictures of a report, drawn from its CSV files: latency and deliveries over time, sockets, what is missing.

matplotlib because its PNGs need no browser to look at and no script in a page; plotly's do. `python -m
loadtests.locustfiles.plots FOLDER` draws them anew.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no display

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.locustfiles.names import LATENCIES
from loadtests.locustfiles.outcome import PREFIX

PERCENTILES = (("50%", "#4c9f70"), ("95%", "#e0a030"), ("99%", "#c0392b"))
LINES = (":", "-", "--")
SIZE = (10, 3.6)
MEAN = 4  # seconds
Rows = list[dict[str, str]]


def draw(folder: Path) -> list[Path]:
    """Writes them into the folder and returns them."""
    with (folder / f"{PREFIX}_sockets.csv").open(newline="") as file:
        sockets = list(csv.DictReader(file))
    with (folder / f"{PREFIX}_stats_history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    return [
        _figure(folder / "latency.png", "Delivery latency, percentiles of the last 10 s", "ms", _latency, history),
        _figure(folder / "deliveries.png", "Deliveries", "messages a second", _deliveries, sockets),
        _figure(folder / "sockets.png", "Open sockets", "sockets", _sockets, sockets),
        _figure(folder / "loss.png", "Messages that did not come", "messages since the start", _loss, sockets),
        _figure(folder / "lag.png", "How late the generator itself was", "ms", _lag, sockets),
    ]


def _figure(path: Path, title: str, unit: str, plot: Callable[[Axes, Rows], None], rows: Rows) -> Path:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    plot(axes, rows)
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("seconds")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    return path


def _latency(axes: Axes, history: Rows) -> None:
    begin = int(history[0]["Timestamp"]) if history else 0
    for name in LATENCIES:
        rows = [row for row in history if row["Name"] == name and row["99%"] != "N/A" and float(row["Requests/s"]) > 0]
        for column, colour in PERCENTILES:
            seconds = [int(row["Timestamp"]) - begin for row in rows]
            axes.plot(
                seconds,
                [float(row[column]) for row in rows],
                LINES[LATENCIES.index(name)],
                color=colour,
                label=f"p{column[:-1]} {name}" if rows else None,
                linewidth=1.3,
            )


def _deliveries(axes: Axes, rows: Rows) -> None:
    """Workers report every second, and not at the same moment as these rows: the mean over the last few."""
    seconds, received = _column(rows, "seconds"), _column(rows, "received")
    rate = [max(0.0, received[at] - received[max(0, at - MEAN)]) / max(1, min(at, MEAN)) for at in range(len(rows))]
    axes.plot(seconds, rate, color="#2c6fbb", linewidth=1.3)


def _sockets(axes: Axes, rows: Rows) -> None:
    axes.plot(_column(rows, "seconds"), _column(rows, "sockets"), color="#2c6fbb", label="open sockets", linewidth=1.6)
    axes.plot(_column(rows, "seconds"), _column(rows, "users"), ":", color="#777777", label="users of locust")


def _loss(axes: Axes, rows: Rows) -> None:
    for column, colour, label in (
        ("lost", "#c0392b", "lost"),
        ("repeated", "#8e44ad", "repeated or out of order"),
        ("told", "#e0a030", "told by the broker"),
    ):
        axes.plot(_column(rows, "seconds"), _column(rows, column), color=colour, label=label, linewidth=1.5)
    axes.set_ylim(top=max(1.0, axes.get_ylim()[1]))


def _lag(axes: Axes, rows: Rows) -> None:
    axes.plot(
        _column(rows, "seconds"), _column(rows, "lag_ms"), color="#777777", label="worst of a second", linewidth=1.3
    )


def _column(rows: Rows, name: str) -> list[float]:
    return [float(row[name]) for row in rows]


if __name__ == "__main__":
    for picture in draw(Path(sys.argv[1])):
        print(picture)
