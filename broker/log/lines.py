"""A record of the standard library's logging, ours or a library's, as a line: JSON for machines, console for people.

Bounded, without what has the shape of a secret, and with every control character escaped.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

# Members that every line has; no field may be called so.
MEMBERS = ("ts", "level", "event", "logger", "process", "pid")
# What is left of an exception's text: its end, where the error itself stands. journald cuts lines at 48 KiB.
MOST_EXCEPTION_CHARACTERS = 16_384
MOST_FIELD_CHARACTERS = 2_048

Event = MutableMapping[str, Any]


def _whose(process: str) -> Callable[[object, str, Event], Event]:
    """The members that every line has, in their order, before the fields."""
    pid = os.getpid()

    def assemble(_: object, __: str, event: Event) -> Event:
        record: logging.LogRecord = event["_record"]
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: Event = {
            "ts": moment.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "event": event["event"],
            "logger": record.name,
            "process": process,
            "pid": pid,
            **getattr(record, "fields", {}),
        }
        if "exc_info" in event:
            line["exc_info"] = event["exc_info"]
        return line

    return assemble


# The shapes of what lets somebody in: an offer's credential, a JSON Web Token, a key of the API, a URL's parameter, a
# header. Each match ends before a quote, a space or an &, and a `&` in it is no part of any of them.
_SECRETS = re.compile(
    r"(?P<jwt>\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?)"
    r"|(?P<key>\bwsb_[\w-]{8,})"
    r"|(?P<name>\bbearer[.\s]+|\b(?:access_)?token=|\bbasic\s+|\bcookie:\s*)(?P<value>[^\s&\"',;]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Without what has the shape of a secret."""
    return _SECRETS.sub(lambda found: f"{found['name'] or ''}[redacted]", text)


def _redacted(_: object, __: str, event: Event) -> Event:
    return {name: _plain(value, name) for name, value in event.items()}


def _plain(value: object, name: str = "") -> object:
    """What JSON has, bounded, without secrets."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    text = redact(str(value))
    if name == "exception":
        return text[-MOST_EXCEPTION_CHARACTERS:]
    return text if len(text) <= MOST_FIELD_CHARACTERS else text[:MOST_FIELD_CHARACTERS] + "..."


def _json(_: object, __: str, event: Event) -> str:
    """ASCII: every control character is escaped by JSON's own rule, but DEL, which it lets through."""
    return json.dumps(event, allow_nan=True).replace("\x7f", "\\u007f")


def _printable(value: object) -> object:
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if not isinstance(value, str):
        return value
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in value)


def _for_people(_: object, __: str, event: Event) -> Event:
    """What a terminal would take for an order is escaped; the lines of an exception are indented, so that none of them
    can be taken for a line of the log.
    """
    del event["pid"]
    exception = event.pop("exception", None)
    line = {name: _printable(value) for name, value in event.items()}
    if exception is not None:
        line["exception"] = "\n".join(f"    {_printable(one)}" for one in exception.split("\n"))
    return line


def formatter(form: Literal["console", "json"], process: str, *, colors: bool = False) -> logging.Formatter:
    """Makes a line of any record: ours, or a library's."""
    processors: list[Any] = [_whose(process), structlog.processors.format_exc_info, _redacted]
    if form == "json":
        processors.append(_json)
    else:
        render = structlog.dev.ConsoleRenderer(
            colors=colors,
            timestamp_key="ts",
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
        processors += [_for_people, render]
    return structlog.stdlib.ProcessorFormatter(processors=processors)
