"""`make loadtest` as a user runs it, in a small size: the report is there, and a loss ends with status 1.

locust runs in processes of its own only: it patches the standard library of whoever imports it.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process.command import OWN_FOLDER, PATIENCE_SECONDS, ROOT, environment

COMMAND = [sys.executable, "-m", "loadtests.locustfiles.run"]
RUN_SECONDS = 100.0


class Run(NamedTuple):
    status: int
    output: str
    errors: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def counts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(type, name) -> (entries, failures), of locust's own table."""
        with (self.folder / "locust_stats.csv").open(newline="") as file:
            return {
                (row["Type"], row["Name"]): (int(row["Request Count"]), int(row["Failure Count"]))
                for row in csv.DictReader(file)
            }


def loadtest(*arguments: str, **more: str) -> tuple[int, str, str]:
    """Runs it in a session of its own, of which nobody is left afterwards."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=RUN_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Run]]:
    """At the same time: each mostly waits."""
    sizes = {
        "crowd": ["--users", "40", "--hold", "1", "--channels", "2", "--rate", "5"],
        "untold": ["--users", "6", "--hold", "6", "--channels", "2", "--rate", "250", "--workers", "1", "--no-plots"],
    }
    # A locustfile of one's own is given by its path.
    files = {"crowd": "crowd", "untold": str(ROOT / "loadtests/locustfiles/untold.py")}
    folders = {scenario: Path(OWN_FOLDER.name) / f"loadtest-{scenario}" for scenario in sizes}

    def run(scenario: str) -> Run:
        flags = ["--scenario", files[scenario], "--out", str(folders[scenario]), *sizes[scenario]]
        return Run(*loadtest(*flags), folders[scenario])

    with ThreadPoolExecutor(len(sizes)) as pool:
        yield dict(zip(sizes, pool.map(run, sizes), strict=True))


def test_a_crowd_that_hears_everything_is_a_good_run_and_leaves_its_report(runs: dict[str, Run]) -> None:
    run = runs["crowd"]
    assert run.status == 0, run.output + run.errors
    assert re.search(r"\+ 40 sockets at once from 2 processes", run.output)
    assert re.search(r" s +\d+ sockets +\d+ deliveries/s +p99 \d+ ms +lost 0", run.errors), "progress while it runs"
    assert f"report: {run.folder}\n" in run.output
    for name in ("latency.png", "deliveries.png", "sockets.png", "loss.png", "lag.png"):
        assert (run.folder / name).read_bytes().startswith(b"\x89PNG")
    assert "<html" in (run.folder / "report.html").read_text()
    assert "wsbroker_" in (run.folder / "metrics.txt").read_text(), (
        "what the broker says of itself, before it is stopped"
    )


def test_sockets_deliveries_publishes_and_the_generators_own_lag_are_rows_of_locust(runs: dict[str, Run]) -> None:
    run = runs["crowd"]
    counts = run.counts()
    assert counts["WS", "connect"] == (40, 0)
    assert counts["WS", "handshake"] == (40, 0)
    for row in (("WS", "delivery"), ("POST", "publish"), ("GEN", "lag"), ("GEN", "back end late")):
        assert counts[row][0] > 0
        assert counts[row][1] == 0
    heard = sum(count for (_, name), (count, _) in counts.items() if name.startswith("delivery"))
    assert heard == run.summary["received"] > 0
    assert run.summary["lost"] == run.summary["repeated"] == 0
    assert not any(kind == "LOSS" for kind, _ in counts)


def test_messages_that_really_are_missing_are_counted_and_fail_the_run(runs: dict[str, Run]) -> None:
    run = runs["untold"]
    assert run.status == 1, run.output + run.errors
    lost = run.summary["lost"]
    assert lost > 0
    assert run.counts()["LOSS", "missing message"] == (lost, lost)
    assert f"! {lost} x LOSS missing message" in run.output
    assert run.summary["ok"] is False
    with (run.folder / "locust_sockets.csv").open(newline="") as file:
        assert int(list(csv.DictReader(file))[-1]["lost"]) == lost


def test_the_key_of_the_back_end_stands_in_no_file_of_the_report(runs: dict[str, Run]) -> None:
    """A report is attached to pages and tickets. Only the key's hash is in it."""
    written = "".join(path.read_text(errors="replace") for path in runs["crowd"].folder.iterdir())
    assert "Bearer" not in written
    assert re.search(r'sha256 = "[0-9a-f]{64}"', written)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--scenario", "stampede"], "no scenario 'stampede'; there are crowd, chat"),
        (["--users", "0"], "are at least 1"),
        (["--host", "ws://127.0.0.1:9/ws"], "--host and --api-url go together"),
        (
            ["--host", "ws://127.0.0.1:9/ws", "--api-url", "http://127.0.0.1:9"],
            "belongs in the environment variable LOADTEST_API_KEY",
        ),
    ],
)
def test_wrong_flags_end_at_once_with_status_2_and_say_which(flags: list[str], why: str) -> None:
    status, _, errors = loadtest(*flags)
    assert status == 2
    assert why in errors


def test_too_few_open_files_are_named_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *COMMAND, "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "needs 5300 open files per process and may have 200; raise the hard limit (ulimit -Hn)" in done.stdout
    assert not (tmp_path / "broker.log").exists()
