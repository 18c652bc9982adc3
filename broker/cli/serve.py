"""`ws-broker serve`: configuration, listeners, then one process or a supervisor with several."""

import sys

import click

from broker import __version__
from broker.cli.configuration import Asked, configuration_options
from broker.cli.devkey import DevKey, announced, reachable, with_key
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
      ws-broker serve --dev --listen 127.0.0.1:8080 --origin http://app.test:3000
      ws-broker serve --dev --workers auto
      ws-broker serve --config broker.toml

    With --dev the API has a key for this one run: it is in the `curl` line that the start prints, and the commands
    publish, subscribe, channels, sessions and disconnect of the same user find it by themselves.
    """
    check_system()
    _serve(asked, verbose)


def _serve(asked: Asked, verbose: bool) -> None:
    from broker import log
    from broker.supervisor import telling
    from broker.supervisor.cpus import usable_cpus
    from broker.supervisor.listeners import ListenError, exposures, listeners_for
    from broker.supervisor.notify import Notifier

    if verbose:
        asked = asked._replace(overrides={**asked.overrides, "log.level": "debug"})
    dev_key = DevKey()

    def read_again() -> Config:
        config = asked.read().config
        problems = list(exposures(config, listeners.clients))
        if problems:
            raise ConfigError(problems)
        return with_key(config, dev_key)

    try:
        loaded = asked.read_or_end()
        config = with_key(loaded.config, dev_key)
    except ConfigError as error:
        end(str(error), EXIT_USAGE)
    workers = usable_cpus() if config.server.workers == "auto" else config.server.workers
    log.configure("broker" if workers == 1 else "supervisor", config.log)
    try:
        listeners = listeners_for(config, workers)
    except ListenError as error:
        end(str(error))
    telling.starting(config, None if asked.file is None else str(asked.file), workers, loaded.advice)
    notifier = Notifier.from_environment()
    clients, api, admin = listeners
    address = clients[0].getsockname()
    with announced(config, dev_key, address, None if api is None else api.getsockname()) as lines:

        def announce() -> None:
            if admin is not None:
                lines.append(f"metrics: http://{_host_port(admin.getsockname())}/metrics")
            where = None if api is None else api.getsockname()
            _announce(config, address, where, lines)
            telling.accepting(
                _host_port(address),
                None if where is None else _host_port(where),
                None if admin is None else _host_port(admin.getsockname()),
            )

        # Each way imports what it needs: a supervisor has no gateway and no API.
        if workers == 1:
            from broker.supervisor.alone import run as alone

            alone(config, read_again, clients, notifier, announce, api=api, admin=admin)
            telling.stopped()
            return
        from broker.supervisor.supervisor import run as supervise

        why = supervise(config, read_again, clients, workers, notifier, announce, api=api, admin=admin)
        telling.stopped()
    if why is not None:
        end(why)


def _announce(config: Config, address: tuple[str, int], api: tuple[str, int] | None, more: list[str]) -> None:
    where = _host_port(address)
    if config.server.dev:
        where = reachable(*address[:2])  # a page at http://0.0.0.0 could not connect
        click.echo(f"ws-broker {__version__} serves --dev: open http://{where}/ in two tabs")
        click.echo(f'from a page of this machine: new WebSocket("ws://{where}/ws", ["news"])')
    else:
        click.echo(f"ws-broker {__version__} serves ws://{where}/ws")
        if api is not None:
            click.echo(f"back ends: http://{_host_port(api)}/v1/publish (keys: {', '.join(config.api.keys)})")
    for line in more:
        click.echo(line)
    sys.stdout.flush()


def _host_port(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
