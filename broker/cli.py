"""The command line: `ws-broker`.

click, over Typer (which brings rich and more start-up time) and argparse (whose help does not teach by examples as
easily). Exit codes: 0 ended as asked, 1 cannot run here, 2 wrong flags or configuration.
"""

import importlib
import os
import sys
from pathlib import Path

import click

from broker import __version__

EXIT_CANNOT_RUN = 1
EXIT_USAGE = 2


def check_system() -> None:
    """Ends with one line if this machine or this installation cannot run the broker."""
    if not sys.platform.startswith("linux"):
        _end(f"runs on Linux only (it needs epoll and SO_REUSEPORT); this is {sys.platform}")
    try:
        importlib.import_module("broker.native._reactor")
    except ImportError as error:
        _end(
            f"the native core is not built or does not fit this Python ({error}); "
            "run `make build`, or install the wheel"
        )


def _end(line: str, code: int = EXIT_CANNOT_RUN) -> None:
    click.echo(f"ws-broker: {line}", err=True)
    raise SystemExit(code)


def _workers(_: click.Context, __: click.Parameter, workers: str | None) -> int | str | None:
    if workers is None or workers == "auto":
        return workers
    if not workers.isascii() or not workers.isdigit():
        raise click.BadParameter(f"{workers!r} is neither a number nor auto")
    return int(workers)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        check_system()
        from broker.native._build import BUILD

        python = ".".join(map(str, sys.version_info[:3]))
        click.echo(f"ws-broker {__version__} ({BUILD} build, Python {python})")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version and build."
)
def main() -> None:
    """Pub/sub over the browser's own WebSocket.

    \b
    Try it:
      ws-broker serve --dev
    then open the page it names in two tabs.
    """


@main.command()
@click.option("--dev", is_flag=True, help="Everybody on this machine may subscribe and publish; demo page at /.")
@click.option("--listen", metavar="HOST:PORT", help="Where WebSockets are accepted. [default: 127.0.0.1:8000]")
@click.option(
    "--workers",
    metavar="N|auto",
    callback=_workers,
    help="Worker processes; auto: one for each processor that is ours. [default: 1]",
)
@click.option(
    "--history",
    "history_count",
    type=click.IntRange(0, 2**20),
    metavar="N",
    help="Keep the last N messages of every channel for those who come back. [default: 0]",
)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="A page that may connect besides those of this machine: scheme://host[:port]. Repeatable.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="TOML file; config/broker.toml documents every key.",
)
@click.option("--verbose", is_flag=True, help="Log the life of every session.")
def serve(
    dev: bool,
    listen: str | None,
    workers: int | str | None,
    history_count: int | None,
    origins: tuple[str, ...],
    config_file: Path | None,
    verbose: bool,
) -> None:
    """Serve WebSockets until SIGTERM or Ctrl-C.

    \b
    Examples:
      ws-broker serve --dev
      ws-broker serve --dev --history 100
      ws-broker serve --dev --listen 127.0.0.1:9000 --origin http://app.test:3000
      ws-broker serve --dev --workers auto
    """
    check_system()
    overrides: dict[str, object] = {}
    if dev:
        overrides["server.dev"] = True
    if listen is not None:
        overrides["server.listen"] = listen
    if workers is not None:
        overrides["server.workers"] = workers
    if origins:
        overrides["server.origins"] = list(origins)
    _serve(config_file, overrides, history_count, verbose)


def _serve(config_file: Path | None, overrides: dict[str, object], history_count: int | None, verbose: bool) -> None:
    from broker.config.errors import ConfigError
    from broker.config.load import load
    from broker.config.schema import Config
    from broker.supervisor.alone import run as alone
    from broker.supervisor.child import configure_logging
    from broker.supervisor.cpus import usable_cpus
    from broker.supervisor.listeners import ListenError, listeners_for
    from broker.supervisor.notify import Notifier
    from broker.supervisor.supervisor import run as supervise

    def read() -> Config:
        config = load(config_file, overrides, history_count)
        if not config.server.dev:
            raise ConfigError(
                ["nobody could connect: this version admits clients with --dev only (on this machine, without tokens)"]
            )
        return config

    try:
        config = read()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"ws-broker: {problem}", err=True)
        raise SystemExit(EXIT_USAGE) from None
    state_directory = config.server.state_directory
    if state_directory and not os.access(state_directory, os.R_OK | os.W_OK | os.X_OK):
        _end(f"server.state_directory: {state_directory} is no directory that can be written")
    configure_logging(verbose)
    workers = usable_cpus() if config.server.workers == "auto" else config.server.workers
    try:
        listeners = listeners_for(config, workers)
    except ListenError as error:
        _end(str(error))
    notifier = Notifier.from_environment()
    address = listeners[0].getsockname()
    if workers == 1:
        alone(config, listeners, notifier, lambda: _announce(address))
        return
    why = supervise(config, read, listeners, workers, notifier, lambda: _announce(address), verbose=verbose)
    if why is not None:
        _end(why)


def _announce(address: tuple[str, int]) -> None:
    host, port = address[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    click.echo(f"ws-broker {__version__} serves --dev: open http://{where}/ in two tabs")
    click.echo(f'from a page of this machine: new WebSocket("ws://{where}/ws", ["news"])')
    sys.stdout.flush()
