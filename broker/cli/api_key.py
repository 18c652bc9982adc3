"""`ws-broker api-key`: a key for a back end, shown once, and the table with its hash for the broker."""

import json
import re
import sys
from pathlib import Path

import click

from broker.cli.devkey import digest, new_key
from broker.cli.files import write_new
from broker.cli.output import put
from broker.cli.token import _pattern

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@click.command("api-key", short_help="Make a key for the HTTP API.")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["publish", "read", "admin"]),
    help="publish; read: histories, presence, channels; admin: sessions and users. Repeatable. [default: publish]",
)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="PATTERN",
    callback=_pattern,
    help="Channels it may do that with. Repeatable. [default: all]",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the key there, readable by you alone, instead of showing it.",
)
def api_key(name: str, scopes: tuple[str, ...], channels: tuple[str, ...], key_file: Path | None) -> None:
    """Make a key for the HTTP API; NAME is what logs and errors call it.

    The table on standard output is for the broker's configuration and holds a hash only. The key itself is shown once,
    on standard error: give it to the back end as WSBROKER_API_KEY.

    \b
    Examples:
      ws-broker api-key backend >> broker.toml
      ws-broker api-key monitoring --scope read --scope admin --key-file monitoring.key
      ws-broker api-key chat --channel 'room.*' --channel lobby
    """
    if _NAME.fullmatch(name) is None:
        raise click.BadParameter("1 to 64 of A-Z a-z 0-9 _ -", param_hint="NAME")
    key = new_key()
    if key_file is not None:
        write_new(key_file, f"{key}\n".encode(), 0o600)
    else:
        click.echo("ws-broker: the key, shown this once:", err=True)
        click.echo(f"WSBROKER_API_KEY={key}", err=True)
        sys.stderr.flush()
    put(
        f"[api.keys.{name}]\n"
        f'sha256 = "{digest(key)}"\n'
        f"scopes = {json.dumps(list(dict.fromkeys(scopes)) or ['publish'])}\n"
        f"channels = {json.dumps(list(dict.fromkeys(channels)) or ['>'], ensure_ascii=False)}"
    )
