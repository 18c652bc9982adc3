"""Writes the reference in docs/configuration.md: every key with its type, bounds, default, variable and meaning.

    make docs-reference

What a key means is taken from the comments of config/broker.toml, everything else from the schema and the table of what
a reload changes. What stands above the mark in the document is written by hand and kept.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from broker.config.environment import variable_of
from broker.config.reload import Applies, applies
from broker.config.schema import ApiKey, AuthKey, ChannelPolicy, Config

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ROOT / "config" / "broker.toml"
DOCUMENT = ROOT / "docs" / "configuration.md"
MARK = "<!-- From here on: make docs-reference -->\n"

# The tables of broker.toml that show one of those whose names the operator chooses.
EXAMPLES = {"api.keys.shop": "api.keys.NAME", "auth.keys.main": "auth.keys.NAME", 'channels.">"': 'channels."PATTERN"'}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    "api.keys.NAME": ApiKey,
    "auth.keys.NAME": AuthKey,
    'channels."PATTERN"': ChannelPolicy,
}

_HEADER = re.compile(r"(?:# )?\[([a-z]+(?:\.[a-z]+|\.\">\")*)\]")
_KEY = re.compile(r"(?:# )?([a-z][a-z0-9_]*) = (.+)")
_RELOAD: dict[Applies, str] = {"now": "at once", "workers": "by new workers", "restart": "after a restart"}


class Shown(NamedTuple):
    """A key as config/broker.toml shows it."""

    table: str
    key: str
    value: str
    meaning: str


def shown_keys(text: str) -> Iterator[Shown]:
    """Keys in their order, those of commented examples too. A key without a comment shares that of the one before."""
    table = meaning = ""
    comment: list[str] = []
    for line in text.splitlines():
        if found := _HEADER.fullmatch(line):
            table = EXAMPLES.get(found[1], found[1])
            comment = []
        elif found := _KEY.fullmatch(line):
            meaning = " ".join(comment) or meaning
            comment = []
            yield Shown(table, found[1], found[2], meaning)
        elif line.startswith("# ---"):
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        else:
            comment = []


def struct_of(table: str) -> type[msgspec.Struct]:
    named = STRUCTS.get(table)
    return named if named is not None else get_type_hints(Config)[table]


def describe(kind: Any, unit: str = "") -> str:
    """A type in words, with its bounds."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = next(one for one in arguments[1:] if isinstance(one, msgspec.Meta))
        return f"{describe(arguments[0])}{unit}{_bounds(bounds)}"
    if origin is Literal:
        return " or ".join(f"`{word!r}`".replace("'", '"') for word in arguments)
    if origin in (Union, UnionType):
        return " or ".join(describe(one) for one in arguments)
    if origin in (list, tuple):
        inner = get_args(arguments[0])
        return (
            f"list of {' and '.join(f'`{word!r}`'.replace(chr(39), chr(34)) for word in inner)}"
            if inner
            else "list of strings"
        )
    words = {str: "string", bool: "true or false", int: "whole number", float: "number"}
    return words[kind] + (unit if kind in (int, float) else "")


def _bounds(meta: msgspec.Meta) -> str:
    low = f"above {_plain(meta.gt)}" if meta.gt is not None else f"{_plain(meta.ge)}"
    high = f"at most {_plain(meta.le)}" if meta.gt is not None else f"to {_plain(meta.le)}"
    return f", {low}, {high}" if meta.gt is not None else f", {low} {high}"


def _plain(number: float | None) -> str:
    assert number is not None, "every number has two bounds"
    return f"{number:_}" if isinstance(number, int) else f"{number:g}"


def _unit(key: str) -> str:
    for unit in ("seconds", "bytes"):
        if key.endswith(f"_{unit}"):
            return f" of {unit}"
    return ""


def reference(text: str) -> str:
    """The generated part of the document, of the text of config/broker.toml."""
    lines: list[str] = []
    last = ""
    for shown in shown_keys(text):
        if shown.table != last:
            last = shown.table
            lines += [f"### `[{shown.table}]`", ""]
            if shown.table in STRUCTS:
                parts = tuple(part.strip('"') for part in shown.table.split(".")[:-1])
                lines += [f"In the environment: the whole of `{'.'.join(parts)}`, as `{variable_of(parts)}`.", ""]
        lines += _entry(shown)
    return "\n".join(lines)


def _default(shown: Shown, struct: type[msgspec.Struct]) -> str:
    """As config/broker.toml writes it; a commented example may show another value."""
    default = getattr(struct(), shown.key)
    return shown.value if tomllib.loads(f"x = {shown.value}")["x"] == default else json.dumps(default)


def _entry(shown: Shown) -> Iterator[str]:
    struct = struct_of(shown.table)
    kind = get_type_hints(struct, include_extras=True)[shown.key]
    facts = [describe(kind, _unit(shown.key)), f"default `{_default(shown, struct)}`"]
    parts = shown.table.split(".")
    if shown.table not in STRUCTS:
        facts.append(f"`{variable_of((shown.table, shown.key))}`")
    table_key = (
        ".".join(parts[:-1]) if shown.table in ("api.keys.NAME", "auth.keys.NAME") else f"{parts[0]}.{shown.key}"
    )
    facts.append(f"a reload: {_RELOAD[applies(table_key)]}")
    yield f"**`{shown.key}`**: {shown.meaning.replace('<', '&lt;')}<br>"
    yield f"{'; '.join(facts)}."
    yield ""


def document(existing: str, shown: str) -> str:
    head, mark, _ = existing.partition(MARK)
    assert mark, f"{DOCUMENT} has no line {MARK}"
    return f"{head}{MARK}\n{reference(shown)}"


def main() -> int:
    DOCUMENT.write_text(document(DOCUMENT.read_text(), SHOWN.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
