"""Every event that the code logs, read from its sources: what docs/logs.md has to say. Nothing of it is imported.

An event is the text of a call of `log`, `access` or `_log`, which has to be a literal; its fields are the keywords.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LOGGERS = frozenset({"log", "access", "_log"})
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "critical"}
NOT_FIELDS = frozenset({"exc_info"})
# What the log says of itself, by records of its own.
OWN = frozenset({("log lines suppressed", "warning", "of lines"), ("log line could not be made", "error", "of")})


class Event(NamedTuple):
    text: str
    level: str
    fields: str


class NotLiteralError(Exception):
    """An event that is put together: it could not be found again in a log."""


def events(root: Path) -> set[Event]:
    """Of the package `root/broker`. Fields in the order of the code, those of several places added up."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for path in sorted((root / "broker").rglob("*.py")):
        for text, level, fields in _calls(path):
            found.setdefault((text, level), {}).update(dict.fromkeys(fields))
    return {Event(text, level, " ".join(fields)) for (text, level), fields in found.items()} | set(
        map(Event._make, OWN)
    )


def _calls(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id in LOGGERS):
            continue
        level = "error" if node.func.attr == "exception" else LEVELS.get(node.func.attr)
        if level is None:
            continue
        (text,) = node.args if len(node.args) == 1 else (None,)
        if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            raise NotLiteralError(f"{path}:{node.lineno}")
        fields = [keyword.arg or "**" for keyword in node.keywords if keyword.arg not in NOT_FIELDS]
        raised = node.func.attr == "exception" or len(fields) < len(node.keywords)
        yield text.value, level, [*fields, "exception"] if raised else fields
