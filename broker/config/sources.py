"""Where settings come from, and the one tree that all sources make together.

`load` lays file, environment and flags over each other here; what was said by whom is kept for every value, for error
lines and for `ws-broker show-config`. Knows nothing of the schema.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

# Of a key, a table or an element of a list (a number): ("server", "origins", 0), ("channels", "room.*", "queue").
Path = tuple[str | int, ...]

# Tables whose keys are names that the operator chose.
NAMED = (("channels",), ("api", "keys"), ("auth", "keys"))


class Source(msgspec.Struct, frozen=True):
    """`name`: of the file, the variable or the flag."""

    kind: Literal["default", "file", "environment", "flag", "dev"]
    name: str = ""

    def __str__(self) -> str:
        return {"default": "default", "dev": "because of server.dev"}.get(self.kind, self.name)


DEFAULT = Source("default")
DEV = Source("dev")


def dotted(path: Path) -> str:
    """As errors and documents name it. Names are quoted: a channel pattern has dots."""
    text = ""
    for at, part in enumerate(path):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (f'"{part}"' if path[:at] in NAMED else part)
    return text


class Layers:
    """Tables in tables. What is laid later wins, key by key; `sources` names who set each value that is no table.

    `clashes`: values that stood where another layer has a table, with who set them.
    """

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.sources: dict[Path, Source] = {}
        self.clashes: list[tuple[Path, Source]] = []

    def lay(self, path: Path, value: object, source: Source) -> None:
        """`value` is as TOML gives it; a table adds to the one that is there."""
        table = self.tree
        for at, part in enumerate(path[:-1]):
            table = self._table(table, str(part), path[: at + 1])
        self._put(table, path, value, source)

    def lay_unless_set(self, path: Path, value: object, source: Source) -> None:
        table: Any = self.tree
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                return
        if path[-1] not in table:
            self._put(table, path, value, source)

    def source(self, path: Path) -> Source:
        """Of a value; of what a table of the operator's does not say: of something else in that table."""
        path = tuple(part for part in path if not isinstance(part, int))
        for end in range(len(path), 0, -1):
            here = path[:end]
            if here in self.sources:
                return self.sources[here]
            if end == len(path) or here[:-1] in NAMED:
                below = (source for key, source in self.sources.items() if key[:end] == here)
                if (found := next(below, None)) is not None:
                    return found
        return DEFAULT

    def _put(self, table: dict[str, Any], path: Path, value: object, source: Source) -> None:
        key = str(path[-1])
        if not isinstance(value, Mapping):
            table[key] = value
            self.sources[path] = source
            return
        inner = self._table(table, key, path)
        for name, one in value.items():
            self._put(inner, (*path, name), one, source)
        if not value and path[:-1] in NAMED:
            self.sources.setdefault(path, source)

    def _table(self, table: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
        inner = table.get(key)
        if not isinstance(inner, dict):
            if key in table:
                self.clashes.append((path, self.sources.pop(path, DEFAULT)))
            inner = table[key] = {}
        return inner
