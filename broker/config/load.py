"""From a TOML file, the environment and flags to a Config, or to one ConfigError with everything that is wrong.

Called by the command line, before anything is opened or forked, and again for each reload. Walks the structs itself,
because msgspec stops at the first mistake and an operator wants to see all of them; each single value is converted by
msgspec. What values mean together is judged by validate.py.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from broker.config.environment import read_environment, strangers
from broker.config.errors import ConfigError
from broker.config.schema import Config, Server, Workers
from broker.config.sources import DEV, NAMED, Layers, Path, Source, dotted
from broker.config.validate import Advice, Check, Fault, contradictions
from broker.config.values import next_to

# What is different with server.dev unless it is set: who develops does not wait for a server to end.
_DEV: dict[Path, object] = {
    ("drain", "delay_seconds"): 0.0,
    ("drain", "window_seconds"): 0.0,
    ("limits", "messages_per_second"): 0,
    ("limits", "bytes_per_second"): 0,
    ("limits", "upgrades_per_second"): 0,
}

# As much as a hand-written file ever needs; a mistaken path to a log must not fill the memory.
_MAX_FILE_BYTES = 1 << 20


class Loaded(msgspec.Struct, frozen=True):
    """A configuration, for each value that is not the default who set it, and what could be safer in it."""

    config: Config
    sources: dict[Path, Source]
    advice: tuple[str, ...] = ()


def load(
    file: str | FilePath | None = None,
    overrides: Mapping[str, object] | None = None,
    history_count: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """As `load_with_sources`, the configuration alone."""
    return load_with_sources(file, overrides, history_count, environment).config


def load_with_sources(
    file: str | FilePath | None = None,
    overrides: Mapping[str, object] | None = None,
    history_count: int | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    checks: Iterable[Check] = (),
) -> Loaded:
    """Reads `file`, lays the settings of `environment` over it and `overrides` over both. Raises ConfigError with all
    that is wrong.

    `overrides`: dotted path → value; "api.keys.NAME" and "channels.PATTERN" are some, with a
    table. `flags` names where they came from, in the same words. `history_count`: of all channels whose pattern does
    not say it itself. `checks`: what else has to be right.
    """
    return _Loading(file, overrides or {}, history_count, environment or {}, flags or {}).run(checks)


class _Loading:
    def __init__(
        self,
        file: str | FilePath | None,
        overrides: Mapping[str, object],
        history_count: int | None,
        environment: Mapping[str, str],
        flags: Mapping[str, str],
    ) -> None:
        self._file = None if file is None else FilePath(file)
        self._overrides = overrides
        self._history_count = history_count
        self._environment = environment
        self._flags = flags
        self._layers = Layers()
        self._faults: list[Fault] = []
        self._problems: list[str] = []  # of whole files and variables, which have no path

    def run(self, checks: Iterable[Check]) -> Loaded:
        readable = self._lay_file()
        self._lay_environment()
        self._lay_flags()
        self._faults += [Fault(path, "must be a table", source=source) for path, source in self._layers.clashes]
        config: Config = self._struct(Config, self._layers.tree, ())
        # Of a value that is wrong by itself nothing is said by what goes with it.
        wrong = {fault.path for fault in self._faults}
        if readable:
            self._faults += [fault for fault in contradictions(config) if not wrong & {fault.path, *fault.others}]
        self._problems += map(self._line, self._faults)
        self._problems += strangers(self._environment, _variables_named_by(config))
        found: list[str] = []
        if readable:
            faults = [fault.path for fault in self._faults]
            for check in checks:
                if not any(path[: len(need)] == need for path in faults for need in check.needs):
                    found += _found(check, config)
        self._problems += [line for line in found if not isinstance(line, Advice)]
        if self._problems:
            raise ConfigError(self._problems)
        return Loaded(config, self._layers.sources, tuple(found))

    def _line(self, fault: Fault) -> str:
        source = fault.source or self._layers.source(fault.path)
        if source.kind in ("default", "dev"):
            return f"{dotted(fault.path)}: {fault.text}"
        return f"{dotted(fault.path)}: {fault.text} ({'in' if source.kind == 'file' else 'by'} {source})"

    # The layers.

    def _lay_file(self) -> bool:
        if self._file is None:
            return True
        source = Source("file", str(self._file))
        try:
            for key, value in _beside(self._file.parent, _read(self._file)).items():
                self._layers.lay((key,), value, source)
        except ConfigError as error:
            self._problems += error.problems
            return False
        return True

    def _lay_environment(self) -> None:
        for path, variable, value in read_environment(self._environment):
            source = Source("environment", variable)
            if isinstance(value, ValueError):
                self._faults.append(Fault(path, str(value), source=source))
            else:
                self._layers.lay(path, value, source)

    def _lay_flags(self) -> None:
        for key, value in self._overrides.items():
            # A pattern may have dots, and is the whole rest.
            parts = key.split(".", 1 if key.startswith("channels.") else 2)
            self._layers.lay(tuple(parts), value, Source("flag", self._flags.get(key, "a flag")))
        if self._history_count is not None:
            self._keep_history(self._history_count)
        server = self._layers.tree.get("server")
        if isinstance(server, dict) and server.get("dev") is True:
            for path, value in _DEV.items():
                self._layers.lay_unless_set(path, value, DEV)
            self._layers.lay_unless_set(("api", "listen"), next_to(server.get("listen", Server().listen)), DEV)

    def _keep_history(self, count: int) -> None:
        channels = self._layers.tree.get("channels", {})
        if isinstance(channels, dict):
            source = Source("flag", "--history")
            for pattern in [*channels, ">"]:
                self._layers.lay_unless_set(("channels", pattern, "history_count"), count, source)

    # The walk.

    def _struct(self, struct: Any, table: object, path: Path) -> Any:
        """The struct with every value that is right; the others keep their default and add a fault."""
        if not isinstance(table, dict):
            self._faults.append(Fault(path, "must be a table"))
            return struct()
        types = get_type_hints(struct, include_extras=True)
        values: dict[str, Any] = {}
        for key, value in table.items():
            at = (*path, key)
            if key not in types:
                self._faults.append(Fault(at, _unknown(path, key, struct.__struct_fields__)))
            elif at in NAMED:
                values[key] = self._named(get_args(types[key])[1], value, at)
            elif isinstance(types[key], type) and issubclass(types[key], msgspec.Struct):
                values[key] = self._struct(types[key], value, at)
            else:
                try:
                    values[key] = msgspec.convert(value, type=types[key])
                except msgspec.ValidationError as error:
                    self._faults.append(Fault(at, _hint(types[key], str(error))))
        return struct(**values)

    def _named(self, struct: Any, table: object, path: Path) -> dict[str, Any]:
        if not isinstance(table, dict):
            self._faults.append(Fault(path, "must be a table"))
            return {}
        return {name: self._struct(struct, one, (*path, name)) for name, one in table.items()}


def _found(check: Check, config: Config) -> Iterable[str]:
    try:
        return list(check.find(config))
    except ConfigError as error:
        return error.problems


# Settings that name files.
_FILES: tuple[Path, ...] = (("server", "state_directory"), ("auth", "keys", "*", "file"), ("hook", "secret_file"))


def _beside(folder: FilePath, tables: dict[str, Any]) -> dict[str, Any]:
    """`tables` with the relative paths in them read from `folder`: where a file lies does not depend on who starts the
    broker, and from where.
    """
    for path in _FILES:
        found: list[object] = [tables]
        for key in path[:-1]:
            inner = [one for one in found if isinstance(one, dict)]
            found = [value for one in inner for name, value in one.items() if key in ("*", name)]
        for one in found:
            if isinstance(one, dict) and isinstance(one.get(path[-1]), str) and one[path[-1]]:
                one[path[-1]] = str(folder / one[path[-1]])
    return tables


def _read(path: FilePath) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError([f"{path}: larger than 1 MiB, which is no configuration"])
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: not TOML: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply, which is no configuration"]) from None


def _hint(kind: object, message: str) -> str:
    if get_origin(kind) is Literal:
        return f"must be one of {', '.join(get_args(kind))}"
    if kind == Workers and "enum" in message:
        return "must be a number or auto"
    return message[:1].lower() + message[1:]


def _unknown(path: Path, key: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"unknown key; did you mean {dotted((*path, close[0]))}?"
    return f"unknown key; known here: {', '.join(known)}"


def _variables_named_by(config: Config) -> set[str]:
    return {config.hook.secret_environment, *(key.environment for key in config.auth.keys.values())}
