"""What a scenario found, as a table for people and as JSON for programs.

A scenario fills a Result; bench.py prints it. A goal is "at most" or "exactly"; a row without one is for information.
"""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    name: str
    value: float
    unit: str
    most: float | None = None
    exactly: float | None = None

    @property
    def ok(self) -> bool:
        if self.exactly is not None:
            return self.value == self.exactly
        return self.most is None or self.value <= self.most

    @property
    def goal(self) -> str:
        if self.exactly is not None:
            return f"= {_number(self.exactly)}"
        return "" if self.most is None else f"<= {_number(self.most)}"


@dataclass
class Result:
    """`failures` says what went wrong beside the numbers: readers cut, a broker that died. None of it may be missed."""

    scenario: str
    title: str
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failures and all(row.ok for row in self.rows)

    def add(
        self, name: str, value: float, unit: str, *, most: float | None = None, exactly: float | None = None
    ) -> None:
        self.rows.append(Row(name, value, unit, most, exactly))


def _number(value: float) -> str:
    """Three digits that mean something; counts in full, with spaces between thousands."""
    if float(value).is_integer():
        return f"{int(value):,}".replace(",", " ")
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.2f}"


def table(result: Result) -> str:
    """One row a line, the goal beside the value, and a mark for every goal that was missed."""
    width = max((len(row.name) for row in result.rows), default=0)
    lines = [f"{result.scenario}: {result.title} ({result.seconds:.0f} s)"]
    for row in result.rows:
        mark = " " if row.most is None and row.exactly is None else "+" if row.ok else "!"
        line = f"  {mark} {row.name:<{width}}  {_number(row.value):>10} {row.unit:<6} {row.goal}"
        lines.append(line.rstrip())
    lines += [f"  ! {failure}" for failure in result.failures]
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "ws-broker": version("ws-broker"),
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("model name", "Model", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.machine()


def document(results: list[Result]) -> dict[str, object]:
    return {
        "machine": machine(),
        "ok": all(result.ok for result in results),
        "scenarios": [
            {**asdict(result), "ok": result.ok, "rows": [{**asdict(row), "ok": row.ok} for row in result.rows]}
            for result in results
        ],
    }


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
