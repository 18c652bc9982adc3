"""Debian's Prometheus as it runs beside a broker: deploy/prometheus/prometheus.yml with other numbers, its HTTP API."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.process.books import until
from tests.process.command import PATIENCE_SECONDS, ROOT

SHIPPED = ROOT / "deploy" / "prometheus"
JOB = "ws-broker"


class Series(NamedTuple):
    """One series of an answer; `samples` are (Unix time, value), of an instant query one."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]

    @property
    def value(self) -> float:
        return self.samples[-1][1]

    @property
    def name(self) -> str:
        return self.labels["__name__"]


class Prometheus:
    """`log`: what it has said, a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        until(lambda: self._address() or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        self.url = f"http://{self._address()}"
        until(self._ready, log.read_text)

    def _address(self) -> str | None:
        found = re.search(r'msg="Listening on" address=(\S+)', self.log.read_text())
        return found[1] if found else None

    def _ready(self) -> bool:
        return "Server is ready to receive web requests" in self.log.read_text()

    def get(self, path: str, **parameters: str | float) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """At a Unix time, or now."""
        moment = {} if at is None else {"time": at}
        return [
            Series(one["metric"], [_sample(pair) for pair in one.get("values", [one.get("value")])])
            for one in self.get("query", query=expression, **moment)["result"]
        ]

    def range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        found = self.get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [Series(one["metric"], [_sample(pair) for pair in one["values"]]) for one in found]

    def value(self, expression: str, at: float | None = None) -> float:
        (one,) = self.query(expression, at)
        return one.value

    def scrape_of(self, moment: float) -> float:
        """Waits until the broker has been scraped after this Unix time; when that was."""
        found: list[Series] = []

        def scraped() -> bool:
            # Of a selector alone: of anything that is computed, timestamp() is the moment of the question.
            found[:] = self.query(f'timestamp(up{{job="{JOB}"}}) and up == 1')
            return bool(found) and found[0].value > moment

        until(scraped, lambda: f"scraped after {moment}: {found}\n{self.log.read_text()}")
        return found[0].value

    def alerts(self) -> dict[str, str]:
        """The state of each alert that is pending or firing."""
        return {one["labels"]["alertname"]: one["state"] for one in self.get("alerts")["alerts"]}


def _sample(pair: list[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


@contextmanager
def watching(target: str, folder: Path, interval: str = "500ms") -> Iterator[Prometheus]:
    """Prometheus as this repository configures it, on a port of its own. `target`: HOST:PORT of the admin port."""
    shipped = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    shipped["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    shipped["rule_files"] = [str(SHIPPED / name) for name in shipped["rule_files"]]
    (job,) = shipped["scrape_configs"]
    assert job["job_name"] == JOB
    job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(shipped))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said, cwd=folder) as process:
        try:
            yield Prometheus(process, log)
        finally:
            process.kill()


def now() -> float:
    """As Prometheus stamps its samples."""
    return time.time()
