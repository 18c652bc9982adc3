"""`ws-broker subscribe`: each message of the channels one line on standard output, for people and for pipes."""

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli.ends import end, say
from broker.cli.output import cell, had_enough, harmless, put
from broker.cli.target import DEFAULT_URL, Door, find_door

if TYPE_CHECKING:
    from broker.cli.listening import Event, Listener, Wanted


@click.command(short_help="Print what is published, one message a line.")
@click.argument("channels", nargs=-1, required=True, metavar="CHANNEL...")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages.")
@click.option("--last", type=click.IntRange(0, 999_999), metavar="N", help="Begin with the last N that are kept.")
@click.option("--since", metavar="POSITION", help="Go on after this position (with --json each message has one).")
@click.option(
    "--json", "as_json", is_flag=True, help="The whole event, one line of JSON each: message, gap, join, leave."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with a token; read again for each connection. [default: WSBROKER_TOKEN, else none]",
)
@click.option(
    "--url",
    envvar="WSBROKER_URL",
    metavar="URL",
    help=f"The broker's WebSocket. [default: WSBROKER_URL, else your own `serve --dev`, else {DEFAULT_URL}]",
)
def subscribe(
    channels: tuple[str, ...],
    count: int | None,
    last: int | None,
    since: str | None,
    as_json: bool,
    token_file: Path | None,
    url: str | None,
) -> None:
    """Print what is published in each CHANNEL, one message a line, until Ctrl-C.

    Text comes as it is, JSON on one line, bytes as base64. A lost connection is made again, and where the channel keeps
    a history nothing is missed; what is missed is said on standard error.

    \b
    Examples:
      ws-broker subscribe news
      ws-broker subscribe news --count 3
      ws-broker subscribe news room.42 --json --count 3 | jq -r .channel
      ws-broker subscribe news --last 10 --count 1
      ws-broker subscribe news | ws-broker publish copy -
    """
    if since is not None and len(channels) > 1:
        raise click.UsageError("--since goes with one CHANNEL: a position belongs to one")
    if len(set(channels)) < len(channels):
        raise click.UsageError("a CHANNEL is named twice")
    from broker.cli.listening import Wanted

    door = find_door(url, token_file)
    door.token()  # what is wrong with it is said before anything is opened
    _listen(door, Wanted(channels, since, last), Printer(count, as_json))


class Printer:
    """Events to lines."""

    def __init__(self, count: int | None, as_json: bool) -> None:
        self._left = count
        self._as_json = as_json
        # What others publish must not drive the terminal it is shown on; a pipe gets it as it is.
        self._terminal = sys.stdout is not None and sys.stdout.isatty()

    def take(self, event: "Event", frame: bytes) -> bool:
        """True after the last message that was asked for."""
        if event.type == "gap" and event.missed != 0:
            lost = "messages were" if event.missed is None else f"{event.missed} messages were"
            say(f"{cell(str(event.channel))}: {lost} lost here")
        if self._as_json:
            put(one_line(frame))
        elif event.type == "message":
            put(self._line(event))
        if event.type != "message" or self._left is None:
            return False
        self._left -= 1
        return self._left == 0

    def _line(self, event: "Event") -> str | bytes:
        if event.text is not None:
            return harmless(event.text) if self._terminal else event.text
        if event.base64 is not None:
            return event.base64
        return one_line(bytes(event.data))


def one_line(text: bytes) -> bytes:
    """JSON without the line breaks and blanks between its tokens; numbers and strings stay as they were written."""
    import msgspec

    return msgspec.json.format(text, indent=-1)


def _listen(door: Door, wanted: "Wanted", printer: Printer) -> None:
    import asyncio

    from broker.cli.listening import GiveUpError, Listener

    try:
        asyncio.run(_until_nobody_reads(Listener(door, wanted, printer.take, say)))
    except GiveUpError as error:
        end(str(error))


async def _until_nobody_reads(listener: "Listener") -> None:
    """As `tail -f`: ends when the other end of the pipe is closed, not at the next message after that."""
    import asyncio

    loop = asyncio.get_running_loop()
    listening = asyncio.ensure_future(_end_of(listener))
    closed = asyncio.Event()
    pipe = _output_pipe()
    if pipe is not None:
        # Nothing is ever read from the writing end; it becomes "readable" when nobody reads the other.
        loop.add_reader(pipe, closed.set)
    watching = asyncio.ensure_future(closed.wait())
    try:
        await asyncio.wait({listening, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if pipe is not None:
            loop.remove_reader(pipe)
        watching.cancel()
    if not listening.done():
        listening.cancel()
        await asyncio.wait({listening})
        had_enough()
    if (ended := listening.result()) is not None:
        raise ended


async def _end_of(listener: "Listener") -> SystemExit | None:
    """A task that raises it would end the loop from inside, with a traceback."""
    try:
        await listener.run()
    except SystemExit as ended:
        return ended
    return None


def _output_pipe() -> int | None:
    if sys.stdout is None:
        return None
    fd = sys.stdout.fileno()
    return fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
