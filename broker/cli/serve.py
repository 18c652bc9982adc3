"""`ws-broker serve`: configuration, listeners, then one process or a supervisor with several."""

import os
import sys
from pathlib import Path

import click

from broker import __version__
from broker.cli.ends import EXIT_USAGE, check_system, end


def _workers(_: click.Context, __: click.Parameter, workers: str | None) -> int | str | None:
    if workers is None or workers == "auto":
        return workers
    if not workers.isascii() or not workers.isdigit():
        raise click.BadParameter(f"{workers!r} is neither a number nor auto")
    return int(workers)


@click.command()
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
        end(f"server.state_directory: {state_directory} is no directory that can be written")
    configure_logging(verbose)
    workers = usable_cpus() if config.server.workers == "auto" else config.server.workers
    try:
        listeners = listeners_for(config, workers)
    except ListenError as error:
        end(str(error))
    notifier = Notifier.from_environment()
    clients, api = listeners
    address = clients[0].getsockname()
    if workers == 1:
        alone(config, clients, notifier, lambda: _announce(address), api=api)
        return
    why = supervise(config, read, clients, workers, notifier, lambda: _announce(address), api=api, verbose=verbose)
    if why is not None:
        end(why)


def _announce(address: tuple[str, int]) -> None:
    host, port = address[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    click.echo(f"ws-broker {__version__} serves --dev: open http://{where}/ in two tabs")
    click.echo(f'from a page of this machine: new WebSocket("ws://{where}/ws", ["news"])')
    sys.stdout.flush()
