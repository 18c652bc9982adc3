"""`ws-broker serve`: configuration, listeners, then one process or a supervisor with several."""

import sys

import click

from broker import __version__
from broker.cli.configuration import Asked, configuration_options
from broker.cli.ends import EXIT_USAGE, check_system, end
from broker.config.errors import ConfigError
from broker.config.schema import Config


@click.command()
@configuration_options
@click.option("--verbose", is_flag=True, help="Log the life of every session.")
def serve(asked: Asked, verbose: bool) -> None:
    """Serve WebSockets until SIGTERM or Ctrl-C.

    \b
    Examples:
      ws-broker serve --dev
      ws-broker serve --dev --history 100
      ws-broker serve --dev --listen 127.0.0.1:9000 --origin http://app.test:3000
      ws-broker serve --dev --workers auto
    """
    check_system()
    _serve(asked, verbose)


def _serve(asked: Asked, verbose: bool) -> None:
    from broker.supervisor.alone import run as alone
    from broker.supervisor.child import configure_logging
    from broker.supervisor.cpus import usable_cpus
    from broker.supervisor.listeners import ListenError, exposures, listeners_for
    from broker.supervisor.notify import Notifier
    from broker.supervisor.supervisor import run as supervise

    def read_again() -> Config:
        config = asked.read().config
        problems = [*_only_dev(config), *exposures(config, listeners.clients)]
        if problems:
            raise ConfigError(problems)
        return config

    config = asked.read_or_end().config
    for problem in _only_dev(config):
        end(problem, EXIT_USAGE)
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
        alone(config, read_again, clients, notifier, lambda: _announce(address), api=api)
        return
    why = supervise(
        config, read_again, clients, workers, notifier, lambda: _announce(address), api=api, verbose=verbose
    )
    if why is not None:
        end(why)


def _only_dev(config: Config) -> list[str]:
    """The gateway takes everybody for whoever he says he is: it may face this machine only."""
    if config.server.dev:
        return []
    return ["this version admits clients with --dev only (on this machine, without tokens)"]


def _announce(address: tuple[str, int]) -> None:
    host, port = address[:2]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    click.echo(f"ws-broker {__version__} serves --dev: open http://{where}/ in two tabs")
    click.echo(f'from a page of this machine: new WebSocket("ws://{where}/ws", ["news"])')
    sys.stdout.flush()
