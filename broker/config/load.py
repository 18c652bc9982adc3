"""From a TOML file and flags to a Config, or to one ConfigError with everything that is wrong.

Called once by the command line, before anything is opened or forked. Walks the structs itself, because msgspec stops at
the first mistake and an operator wants to see all of them; each single value is converted by msgspec.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from broker.config.errors import ConfigError
from broker.config.schema import Api, Auth, ChannelPolicy, Config, Drain, Hook, Limits, Server, Supervisor, Workers
from broker.config.values import check_extra_characters, is_loopback, parse_listen, parse_origin_rule, parse_pattern

T = TypeVar("T", bound=msgspec.Struct)

# What is different with server.dev unless it is set: who develops does not wait for a server to end.
_DEV_DRAIN = {"delay_seconds": 0.0, "window_seconds": 0.0}

# As much as a hand-written file ever needs; a mistaken path to a log must not fill the memory.
_MAX_FILE_BYTES = 1 << 20


def load(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None, history_count: int | None = None
) -> Config:
    """Reads `path`, lays `overrides` (dotted path → value, from flags) over it, checks all. Raises ConfigError.

    `history_count`: of all channels whose pattern does not say it itself.
    """
    tree = {} if path is None else _read(Path(path))
    problems: list[str] = []
    for dotted, value in (overrides or {}).items():
        _override(tree, dotted, value, problems)
    if history_count is not None:
        _keep_history(tree, history_count)
    config = _config(tree, problems)
    problems.extend(_contradictions(config))
    if problems:
        raise ConfigError(problems)
    return config


def _read(path: Path) -> dict[str, Any]:
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


def _override(tree: dict[str, Any], dotted: str, value: object, problems: list[str]) -> None:
    section, _, key = dotted.partition(".")
    table = tree.setdefault(section, {})
    # A section that is no table at all is reported by the walk.
    if isinstance(table, dict):
        table[key] = value
    else:
        problems.append(f"{dotted}: cannot be set, because {section} is not a table")


def _keep_history(tree: dict[str, Any], count: int) -> None:
    channels = tree.setdefault("channels", {})
    if isinstance(channels, dict):
        channels.setdefault(">", {})
        for table in channels.values():
            if isinstance(table, dict):
                table.setdefault("history_count", count)


def _config(tree: dict[str, Any], problems: list[str]) -> Config:
    known = Config.__struct_fields__
    problems.extend(_unknown("", key, known) for key in tree if key not in known)
    channels = _named(ChannelPolicy, tree.get("channels", {}), "channels", problems, parse_pattern)
    server = _struct(Server, tree.get("server", {}), "server", problems)
    drain = tree.get("drain", {})
    if server.dev and isinstance(drain, dict):
        drain = {**_DEV_DRAIN, **drain}
    return Config(
        server=server,
        supervisor=_struct(Supervisor, tree.get("supervisor", {}), "supervisor", problems),
        limits=_struct(Limits, tree.get("limits", {}), "limits", problems),
        drain=_struct(Drain, drain, "drain", problems),
        api=_struct(Api, tree.get("api", {}), "api", problems),
        auth=_struct(Auth, tree.get("auth", {}), "auth", problems),
        hook=_struct(Hook, tree.get("hook", {}), "hook", problems),
        channels=channels,
    )


def _named(
    struct: type[T], table: object, path: str, problems: list[str], parse: Callable[[str], object] = str
) -> dict[str, T]:
    """Tables by a name of the operator's, which `parse` judges. Quoted in paths: a channel pattern has dots."""
    if not isinstance(table, dict):
        problems.append(f"{path}: must be a table")
        return {}
    found = {}
    for name, one in table.items():
        _check(parse, name, f'{path}."{name}"', problems)
        found[name] = _struct(struct, one, f'{path}."{name}"', problems)
    return found


def _struct(struct: type[T], table: object, path: str, problems: list[str]) -> T:
    """The struct with every value that is right; the others keep their default and add a problem."""
    if not isinstance(table, dict):
        problems.append(f"{path}: must be a table")
        return struct()
    types = get_type_hints(struct, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in types:
            problems.append(_unknown(f"{path}.", key, struct.__struct_fields__))
            continue
        if get_origin(types[key]) is dict:
            values[key] = _named(get_args(types[key])[1], value, f"{path}.{key}", problems)
            continue
        try:
            values[key] = msgspec.convert(value, type=types[key])
        except msgspec.ValidationError as error:
            problems.append(f"{path}.{key}: {_hint(types[key], str(error))}")
    return struct(**values)


def _hint(kind: object, message: str) -> str:
    if get_origin(kind) is Literal:
        return f"must be one of {', '.join(get_args(kind))}"
    if kind == Workers and "enum" in message:
        return "must be a number or auto"
    return message[:1].lower() + message[1:]


def _unknown(prefix: str, key: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean {prefix}{close[0]}?" if close else f"; known here: {', '.join(known)}"
    return f"{prefix}{key}: unknown key{hint}"


def _check(parse: Callable[[str], object], text: str, path: str, problems: list[str]) -> None:
    try:
        parse(text)
    except ValueError as error:
        problems.append(f"{path}: {error}")


def _contradictions(config: Config) -> Iterator[str]:
    """Values that are right by themselves and wrong together, or wrong in what they say."""
    yield from _server_problems(config.server)
    yield from _channel_problems(config)
    limits = config.limits
    for smaller, larger, why in (
        ("max_offer_bytes", "max_head_bytes", "the offer is a part of the request head"),
        ("max_message_bytes", "send_queue_bytes", "a message that fits no queue could never be delivered"),
        ("send_queue_bytes", "memory_bytes", "one full queue would exceed the worker's memory"),
        ("presence_info_bytes", "presence_list_bytes", "a member that fits no list could never be shown"),
        ("refusal_hold_min_seconds", "refusal_hold_max_seconds", "the hold is chosen between the two"),
        ("max_message_bytes", "link_output_bytes", "a message that fits no link could reach no worker"),
        ("handshake_seconds", "interest_linger_seconds", "a channel may not be left while somebody connects to it"),
        ("pong_seconds", "ping_seconds", "the answer to a ping is due before the next one"),
    ):
        if getattr(limits, smaller) > getattr(limits, larger):
            yield f"limits.{smaller}: must not be above limits.{larger} ({getattr(limits, larger)}): {why}"


def _channel_problems(config: Config) -> Iterator[str]:
    most = config.limits.history_bytes
    for pattern, policy in config.channels.items():
        if policy.queue == "catch_up" and not policy.history_count:
            yield f'channels."{pattern}".queue: catch_up reads on from the history, so history_count must be above 0'
        if policy.history_count and policy.history_bytes > most:
            yield (
                f'channels."{pattern}".history_bytes: must not be above limits.history_bytes ({most}): one channel '
                "would push out all others"
            )


def _server_problems(server: Server) -> Iterator[str]:
    problems: list[str] = []
    try:
        host, _ = parse_listen(server.listen)
    except ValueError as error:
        yield f"server.listen: {error}"
    else:
        if server.dev and not server.dev_on_any_address and not is_loopback(host):
            yield (
                "server.listen: with server.dev everything is open to whoever reaches the port, so only a loopback "
                "address is taken; set server.dev_on_any_address = true if you mean it"
            )
    if server.dev_on_any_address and not server.dev:
        yield "server.dev_on_any_address: means nothing without server.dev"
    for index, origin in enumerate(server.origins):
        if origin not in ("null", "*"):
            _check(parse_origin_rule, origin, f"server.origins[{index}]", problems)
    _check(check_extra_characters, server.extra_channel_characters, "server.extra_channel_characters", problems)
    yield from problems
