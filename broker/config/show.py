"""A configuration and where its values came from, for reading: TOML with comments, or JSON.

What is a secret, or might hold one, is cut short.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from broker.config.load import Loaded
from broker.config.sources import DEFAULT, NAMED, Path, Source

# Enough of a hash to recognise a key by.
_SHOWN_DIGITS = 8


def masked(path: Path, value: object) -> object:
    """`value` as it may be shown to whoever reads a terminal or a log."""
    if path[-1] == "sha256" and value:
        return f"{str(value)[:_SHOWN_DIGITS]}…"
    if path[-1] in ("url", "jwks_url") and isinstance(value, str) and urlsplit(value).query:
        return f"{value.split('?', 1)[0]}?…"
    return value


def _tables(value: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each table with the values in it, tables before what is in them."""
    inner = value if isinstance(value, dict) else msgspec.structs.asdict(value)
    if path not in NAMED:
        yield path, {key: one for key, one in inner.items() if not _is_table((*path, key), one)}
    for key, one in inner.items():
        if _is_table((*path, key), one):
            yield from _tables(one, (*path, key))


def _is_table(path: Path, value: object) -> bool:
    return path in NAMED or isinstance(value, msgspec.Struct)


def as_toml(loaded: Loaded) -> str:
    """Every value, each followed by who set it. Without keys of the API it is a file that means the same."""
    lines: list[str] = []
    for path, values in _tables(loaded.config):
        if path:
            lines += ["", f"[{'.'.join(_toml_key(str(part)) for part in path)}]"]
        for key, value in values.items():
            source = loaded.sources.get((*path, key), DEFAULT)
            lines.append(f"{key} = {_toml_value(masked((*path, key), value))}  # {_told(source)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _told(source: Source) -> str:
    # A path may hold anything; a comment ends with its line.
    return str(source).translate(dict.fromkeys((*range(32), 127), "?"))


def _toml_key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _toml_value(name)


def _toml_value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped, and the pairs JSON escapes with.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def as_json(loaded: Loaded) -> dict[str, Any]:
    """Tables in tables; each value is {"value": …, "from": who set it}."""
    tree: dict[str, Any] = {section: {} for section in loaded.config.__struct_fields__}
    for path, values in _tables(loaded.config):
        table = tree
        for part in path:
            table = table.setdefault(str(part), {})
        for key, value in values.items():
            source = loaded.sources.get((*path, key), DEFAULT)
            table[key] = {"value": masked((*path, key), value), "from": str(source)}
    return tree
