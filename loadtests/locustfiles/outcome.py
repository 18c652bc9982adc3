"""What a run found: the master's verdict, locust's statistics, and what was seen from outside."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "locust"  # of the files that the master writes
VERDICT = f"{PREFIX}_verdict.json"
_COLUMNS = (("Request Count", "count"), ("Failure Count", "failed"), ("50%", "p50"), ("95%", "p95"), ("99%", "p99"))


@dataclass
class Outcome:
    """`complete`: the master lived to its verdict. `rows` are of locust's table, without its sum of unlike things."""

    complete: bool
    verdict: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, problems: list[str]) -> "Outcome":
        file = folder / VERDICT
        if not file.exists():
            return cls(False, problems=[*problems, f"locust came to no verdict; see {folder / 'locust.log'}"])
        verdict = json.loads(file.read_text())
        with (folder / f"{PREFIX}_stats.csv").open(newline="") as table:
            rows = [row for row in csv.DictReader(table) if row["Name"] != "Aggregated"]
        return cls(True, verdict, [*verdict["problems"], *problems], rows)

    @property
    def ok(self) -> bool:
        return self.complete and not self.problems

    def document(self) -> dict[str, Any]:
        return {**self.verdict, "ok": self.ok, "problems": self.problems, "statistics": self.rows}

    def text(self) -> str:
        """A table, and below it what was wrong (!) or doubtful (?)."""
        lines = [f"  {'':7} {'milliseconds':<30} " + " ".join(f"{title:>10}" for _, title in _COLUMNS)]
        for row in self.rows:
            cells = " ".join(f"{_cell(row[column]):>10}" for column, _ in _COLUMNS)
            lines.append(f"  {row['Type']:<7} {row['Name']:<30} {cells}")
        if self.complete:
            found, mark = self.verdict, "+" if self.ok else " "
            lines += [
                "",
                f"  {mark} {found['most_sockets']} sockets at once from {found['workers']} processes",
                f"    {found['received']} deliveries, {found['lost']} lost, {found['repeated']} came twice or late",
                f"    {found['told']} told as missed by the broker",
            ]
        lines += [f"  ? {warning}" for warning in self.verdict.get("warnings", [])]
        lines += [f"  ! {problem}" for problem in self.problems]
        return "\n".join(lines)


def _cell(value: str) -> str:
    return value if value.isdigit() else "-"
