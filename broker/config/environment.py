"""Settings in the environment: WSBROKER_<SECTION>_<KEY>, each value read as its key's type says.

Strings stand as they are; lists of strings are separated by commas; the tables whose keys are names (`channels`,
`api.keys`, `auth.keys`) are one TOML inline table or one JSON object. A variable with our prefix that is no setting is
an error, because a misspelt limit is no limit; but for those that Kubernetes injects, and those of the client commands.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from broker.config.schema import Config
from broker.config.sources import NAMED, Path

PREFIX = "WSBROKER_"

# Read by the command line, not a part of the configuration.
OF_COMMANDS = frozenset({"WSBROKER_API_KEY", "WSBROKER_API_URL", "WSBROKER_CONFIG", "WSBROKER_URL"})

# What a container finds if a service `wsbroker`, or one whose name begins with `wsbroker-`, is in its namespace
# (Kubernetes: enableServiceLinks).
_OF_KUBERNETES = re.compile(
    r"WSBROKER_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
# The one that is told from a mistake (WSBROKER_SERVER_PORT = 8000) by its value only.
_PORT = re.compile(r"WSBROKER_(?:[A-Z0-9_]+_)?PORT")
_PORT_VALUE = re.compile(r"(?:tcp|udp|sctp)://.*")

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def variable_of(path: Path) -> str:
    """The name of the variable for a key: of those in a named table that of the table."""
    end = next((len(named) for named in NAMED if path[: len(named)] == named), len(path))
    return PREFIX + "_".join(str(part).upper() for part in path[:end])


@cache
def settings() -> dict[str, tuple[Path, object]]:
    """By variable: the key, and its type."""
    found: dict[str, tuple[Path, object]] = {}
    for section, kind in get_type_hints(Config, include_extras=True).items():
        if (section,) in NAMED:
            found[variable_of((section,))] = ((section,), kind)
            continue
        for key, inner in get_type_hints(kind, include_extras=True).items():
            found[variable_of((section, key))] = ((section, key), inner)
    return found


def read_environment(environment: Mapping[str, str]) -> Iterator[tuple[Path, str, object]]:
    """(key, variable, value) of each setting; the value is a ValueError if it cannot be read."""
    for variable, (path, kind) in settings().items():
        text = environment.get(variable)
        if text is not None:
            try:
                yield path, variable, read_value(text, kind)
            except ValueError as error:
                yield path, variable, error


def strangers(environment: Mapping[str, str], named: Iterable[str]) -> Iterator[str]:
    """A line for each variable with our prefix that nobody reads. `named`: by the configuration, for secrets."""
    known = {*settings(), *OF_COMMANDS, *named}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in known or _is_of_kubernetes(variable, text):
            continue
        yield f"{variable}: unknown variable{_hint(variable)}"


def _is_of_kubernetes(variable: str, text: str) -> bool:
    if _OF_KUBERNETES.fullmatch(variable):
        return True
    return _PORT.fullmatch(variable) is not None and _PORT_VALUE.fullmatch(text) is not None


def _hint(variable: str) -> str:
    for path in NAMED:
        table = variable_of(path)
        if variable.startswith(table + "_"):
            return f"; this table is set as a whole, as in {table}='{{name = {{…}}}}'"
    if _PORT.fullmatch(variable):
        return "; addresses are HOST:PORT, in WSBROKER_SERVER_LISTEN and WSBROKER_API_LISTEN"
    close = difflib.get_close_matches(variable, settings(), n=1, cutoff=0.75)
    if close:
        return f"; did you mean {close[0]}?"
    return "; settings are WSBROKER_<SECTION>_<KEY>, and docs/configuration.md lists them"


def read_value(text: str, kind: Any) -> object:
    """One value. Raises ValueError with a text that does not repeat it: it may be a secret in the wrong place."""
    if any("\ud800" <= character <= "\udfff" for character in text):  # how Python passes on what it cannot decode
        raise ValueError("is not UTF-8")
    if get_origin(kind) is Annotated:
        return read_value(text, get_args(kind)[0])
    if kind is bool:
        return _boolean(text)
    if kind is int:
        return _number(int, text, "a whole number")
    if kind is float:
        return _number(float, text, "a number")
    if get_origin(kind) is dict:
        return _read_table(text)
    if get_origin(kind) is list:
        return [part.strip() for part in text.split(",")] if text.strip() else []
    if get_origin(kind) in (Union, UnionType) and text.isascii() and text.isdigit():
        return int(text)
    return text  # strings, and words from a list, which the schema checks


def _boolean(text: str) -> bool:
    value = _BOOLEANS.get(text.strip().lower())
    if value is None:
        raise ValueError("must be true or false")
    return value


def _number(kind: type[int] | type[float], text: str, what: str) -> int | float:
    if not text.isascii():
        raise ValueError(f"must be {what}")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"must be {what}") from None


def _read_table(text: str) -> object:
    try:
        return _json_table(text)
    except json.JSONDecodeError:
        pass
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    try:
        read = tomllib.loads(f"x = {text.strip()}")
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"is neither a TOML inline table, as in {{name = {{…}}}}, nor a JSON object: {error}"
        ) from None
    if len(read) != 1 or not isinstance(read["x"], dict):
        raise ValueError("must be one table: a TOML inline table, as in {name = {…}}, or a JSON object")
    return read["x"]


def _json_table(text: str) -> dict[str, object]:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("names a key twice")  # TOML refuses it as well
        return found

    read = json.loads(text, object_pairs_hook=once)
    if not isinstance(read, dict):
        raise ValueError("must be one table: a TOML inline table, as in {name = {…}}, or a JSON object")
    return read
