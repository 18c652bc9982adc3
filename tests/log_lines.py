"""The log of a broker, read back: its lines as JSON, those of one event, those that are complaints."""

import json
import re
from typing import Any

Line = dict[str, Any]

# Every test that serves with --dev has these.
EXPECTED = ("setting is unsafe",)
COMPLAINTS = ("warning", "error", "critical")


def lines(text: str) -> list[Line]:
    """What is no line of the log (a command's own words for people) is left out."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def of_event(text: str, event: str, **fields: object) -> list[Line]:
    """Those of one event whose fields are these; a compiled pattern has to match the whole of a field's text."""
    return [line for line in lines(text) if line["event"] == event and _fits(line, fields)]


def _fits(line: Line, fields: dict[str, object]) -> bool:
    for name, wanted in fields.items():
        found = line.get(name)
        if isinstance(wanted, re.Pattern):
            if not isinstance(found, str) or not wanted.fullmatch(found):
                return False
        elif found != wanted:
            return False
    return True


def complaints(text: str) -> list[str]:
    """What an operator would be alarmed by: warnings and worse, and whatever is no line of the log."""
    found = []
    for line in text.splitlines():
        if not line.startswith("{"):
            found.append(line)
            continue
        said = json.loads(line)
        if said["level"] in COMPLAINTS and said["event"] not in EXPECTED:
            found.append(line)
    return found
