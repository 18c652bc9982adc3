"""The command line: `ws-broker`.

click, over Typer (which brings rich and more start-up time) and argparse (whose help does not teach by examples as
easily). Exit codes: 0 ended as asked, 1 cannot, 2 wrong flags or configuration, 3 nothing found, 130 Ctrl-C.

What a command needs beyond click it imports when it runs: `--help` is there at once, and so is each small command.
"""

from typing import Any

import click

from broker.cli.api_key import api_key
from broker.cli.configuration import check_config, show_config
from broker.cli.ends import EXIT_INTERRUPTED
from broker.cli.look import channels, disconnect, sessions, top, version, version_line
from broker.cli.publish import publish
from broker.cli.serve import serve
from broker.cli.subscribe import subscribe
from broker.cli.token import new_key, token


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(EXIT_INTERRUPTED) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # as they are added: what one needs first stands first


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(version_line())
        context.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Version and build."
)
def main() -> None:
    """Pub/sub over the browser's own WebSocket.

    \b
    Try it:
      ws-broker serve --dev
    then open the page it names in two tabs, or in another terminal:
    \b
      ws-broker subscribe news
      ws-broker publish news 'hello, everyone'
    """


for _command in (
    serve,
    check_config,
    show_config,
    publish,
    subscribe,
    token,
    new_key,
    api_key,
    channels,
    sessions,
    top,
    disconnect,
    version,
):
    main.add_command(_command)
