"""The command line: `ws-broker`.

click, over Typer (which brings rich and more start-up time) and argparse (whose help does not teach by examples as
easily). Exit codes: 0 ended as asked, 1 cannot run here, 2 wrong flags or configuration.
"""

import sys

import click

from broker import __version__
from broker.cli.configuration import check_config, show_config
from broker.cli.ends import check_system
from broker.cli.serve import serve


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


main.add_command(serve)
main.add_command(check_config)
main.add_command(show_config)
