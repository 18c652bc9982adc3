"""The configuration at the command line: `check-config`, `show-config`, and the options they share with `serve`.

What these three read is the same: file, environment, flags, and then what a start would still find wrong (CHECKS).
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import click

from broker.cli.ends import EXIT_USAGE, say
from broker.config.errors import ConfigError
from broker.config.load import Loaded, load_with_sources
from broker.config.schema import Config
from broker.config.show import as_json, as_toml
from broker.config.validate import Advice, Check, nobody_could_connect

# Flags by the keys they set.
_FLAGS = {
    "server.dev": "--dev",
    "server.listen": "--listen",
    "server.workers": "--workers",
    "server.origins": "--origin",
    "api.listen": "--api-listen",
    "admin.listen": "--admin-listen",
    "api.keys.dev": "--dev",
    "log.level": "--verbose",
}


class Asked(NamedTuple):
    """What a command was told about the configuration."""

    file: FilePath | None
    overrides: Mapping[str, object]
    history_count: int | None

    def read(self, more: Mapping[str, object] | None = None) -> Loaded:
        """Reads all sources anew; `more` comes on top of the flags. Raises ConfigError with all that is wrong."""
        overrides = {**self.overrides, **(more or {})}
        return load_with_sources(self.file, overrides, self.history_count, os.environ, _FLAGS, CHECKS)

    def read_or_end(self, more: Mapping[str, object] | None = None) -> Loaded:
        """Ends the process with a line for each thing that is wrong."""
        try:
            return self.read(more)
        except ConfigError as error:
            for problem in error.problems:
                say(problem)
            raise SystemExit(EXIT_USAGE) from None


def _somebody_could_connect(config: Config) -> Iterable[str]:
    if nobody_could_connect(config):
        yield (
            "nobody could connect: there is no key for tokens (auth.keys), no site to ask (hook.url), and no channel "
            'pattern with subscribe or publish = "anyone"; to try things out on this machine: --dev'
        )


def _state_directory(config: Config) -> Iterable[str]:
    folder = config.server.state_directory
    if folder and not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        yield f"server.state_directory: {folder} is no directory that can be written"


def _keys_and_secrets(config: Config) -> Iterable[str]:
    """Imported only where there are some: the cryptography takes 20 MB."""
    if config.auth.keys or config.hook.url:
        from broker.auth.settings import check

        try:
            yield from map(Advice, check(config))
        except ConfigError as error:
            yield from error.problems


# What a start needs beyond a valid configuration.
CHECKS = (
    Check((("auth",), ("hook",), ("channels",), ("server", "dev")), _somebody_could_connect),
    Check((("server", "state_directory"),), _state_directory),
    Check((("auth",), ("hook",)), _keys_and_secrets),
)


def _workers(_: click.Context, __: click.Parameter, workers: str | None) -> int | str | None:
    if workers is None or workers == "auto":
        return workers
    if not workers.isascii() or not workers.isdigit():
        raise click.BadParameter(f"{workers!r} is neither a number nor auto")
    return int(workers)


_OPTIONS = (
    click.option("--dev", is_flag=True, help="Everybody on this machine may subscribe and publish; demo page at /."),
    click.option("--listen", metavar="HOST:PORT", help="Where WebSockets are accepted. [default: 127.0.0.1:8000]"),
    click.option(
        "--api-listen",
        metavar="HOST:PORT",
        help="Where back ends publish. [default: 127.0.0.1:8001; with --dev the port after that of --listen]",
    ),
    click.option(
        "--admin-listen",
        metavar="HOST:PORT",
        help='Where metrics and probes are; "" = nowhere. [default: 127.0.0.1:9000]',
    ),
    click.option(
        "--workers",
        metavar="N|auto",
        callback=_workers,
        help="Worker processes; auto: one for each processor that is ours. [default: 1]",
    ),
    click.option(
        "--history",
        "history_count",
        type=click.IntRange(0, 2**20),
        metavar="N",
        help="Keep the last N messages of every channel for those who come back. [default: 0]",
    ),
    click.option(
        "--origin",
        "origins",
        multiple=True,
        metavar="ORIGIN",
        help="A page that may connect (with --dev besides those of this machine): scheme://host[:port]. Repeatable.",
    ),
    click.option(
        "--config",
        "config_file",
        envvar="WSBROKER_CONFIG",
        type=click.Path(path_type=FilePath),
        help="TOML file; config/broker.toml documents every key. [or WSBROKER_CONFIG]",
    ),
)


def configuration_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that make a configuration, as its first argument `asked`."""

    @wraps(command)
    def with_asked(
        *,
        dev: bool,
        listen: str | None,
        api_listen: str | None,
        admin_listen: str | None,
        workers: int | str | None,
        history_count: int | None,
        origins: tuple[str, ...],
        config_file: FilePath | None,
        **others: Any,
    ) -> None:
        overrides: dict[str, object] = {}
        if dev:
            overrides["server.dev"] = True
        if listen is not None:
            overrides["server.listen"] = listen
        if api_listen is not None:
            overrides["api.listen"] = api_listen
        if admin_listen is not None:
            overrides["admin.listen"] = admin_listen
        if workers is not None:
            overrides["server.workers"] = workers
        if origins:
            overrides["server.origins"] = list(origins)
        command(Asked(config_file, overrides, history_count), **others)

    for option in reversed(_OPTIONS):
        with_asked = option(with_asked)
    return with_asked


def _read(asked: Asked) -> Loaded:
    """Says on standard error, for people, what `serve` logs."""
    loaded = asked.read_or_end()
    for line in loaded.advice:
        say(f"warning: {line}")
    return loaded


@click.command("check-config")
@configuration_options
def check_config(asked: Asked) -> None:
    """Say what would be served, or everything that is wrong.

    Takes the configuration as `serve` would: file, environment (WSBROKER_<SECTION>_<KEY>), flags. Opens nothing.
    Exit status: 0 = could be served, 2 = could not.

    \b
    Examples:
      ws-broker check-config --config /etc/ws-broker/broker.toml
      WSBROKER_SERVER_WORKERS=auto ws-broker check-config --dev
    """
    click.echo(summary(_read(asked).config))


def summary(config: Config) -> str:
    """One line."""
    server = config.server
    count = "one worker" if server.workers == 1 else f"{server.workers} workers"
    parts = [f"would serve WebSockets on {server.listen} with {count}"]
    if config.api.listen:
        parts.append(f"the API on {config.api.listen} ({_number(len(config.api.keys), 'key')})")
    if config.admin.listen:
        parts.append(f"metrics on {config.admin.listen}")
    whom = []
    if server.dev:
        whom.append("everybody (server.dev)")
    if config.auth.keys:
        whom.append(f"by tokens ({_number(len(config.auth.keys), 'key')})")
    if config.hook.url:
        whom.append("by asking the site (hook.url)")
    if not whom:
        whom.append("anonymous clients only")
    parts.append(f"clients: {', '.join(whom)}")
    parts.append(_number(len(config.channels), "channel pattern"))
    return "; ".join(parts)


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@click.command("show-config")
@click.option("--format", "form", type=click.Choice(["toml", "json"]), default="toml", help="[default: toml]")
@configuration_options
def show_config(asked: Asked, form: str) -> None:
    """Print the values in force and where each came from.

    Takes the same options as `serve`. Hashes of keys and the queries of URLs are cut short. As TOML each value is
    followed by who set it: the default, the file, a variable, a flag, or server.dev.

    \b
    Examples:
      ws-broker show-config --config broker.toml | grep -v '# default$'
      ws-broker show-config --dev --format json | jq .server.listen
    """
    loaded = _read(asked)
    if form == "toml":
        click.echo(as_toml(loaded), nl=False)
    else:
        click.echo(json.dumps(as_json(loaded), indent=2, ensure_ascii=False))
