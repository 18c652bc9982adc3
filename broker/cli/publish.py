"""`ws-broker publish`: one message from the command line or a file, or each line of standard input."""

import binascii
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli.ends import EXIT_USAGE, end, say
from broker.cli.output import put
from broker.cli.target import Target, api_options, find_api

if TYPE_CHECKING:
    from broker.cli.publishing import Kind, Publisher

_PROGRESS_SECONDS = 0.5


@click.command(short_help="Publish a message, a file, or lines of standard input.")
@click.argument("channel")
@click.argument("message", required=False)
@click.option("--json", "as_json", is_flag=True, help="Messages are JSON: pages get the value, not its text.")
@click.option("--base64", "as_base64", is_flag=True, help="Messages are base64 of bytes: pages get the bytes.")
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="The content of a file is the message.")
@click.option("--binary", is_flag=True, help="With --file: pages get its bytes, whatever they are.")
@click.option(
    "--message-id",
    metavar="ID",
    help="The broker publishes an id only once in five minutes, so lost answers are asked for again. "
    "With -, line N gets the id ID-N.",
)
@click.option("--result", is_flag=True, help="Print what the broker answers to each message, one JSON line each.")
@api_options
def publish(
    channel: str,
    message: str | None,
    as_json: bool,
    as_base64: bool,
    file: Path | None,
    binary: bool,
    message_id: str | None,
    result: bool,
    api_url: str | None,
    api_key_file: Path | None,
) -> None:
    """Publish MESSAGE in CHANNEL; with - as MESSAGE, every line of standard input.

    Lines are published in their order, as they come. At the first one that is refused the command ends with 1 and names
    the line. A publish is repeated only if the broker said that it did not happen, or with --message-id.

    \b
    Examples:
      ws-broker publish news 'hello, everyone'
      ws-broker publish room.42 --json '{"x": 1}'
      ws-broker publish news --file picture.png --binary
      seq 1000 | ws-broker publish news -
      ws-broker publish news 'only once' --message-id order-7 --result | jq .subscriptions
    """
    if (message is None) == (file is None):
        raise click.UsageError("give one MESSAGE, or - for the lines of standard input, or --file")
    if as_json + as_base64 + binary > 1:
        raise click.UsageError("--json, --base64 and --binary exclude each other")
    if binary and file is None:
        raise click.UsageError("--binary goes with --file; for bytes elsewhere there is --base64")
    kind: Kind = "json" if as_json else "base64" if as_base64 or binary else "text"
    target = find_api(api_url, api_key_file)
    if message == "-":
        _lines(target, channel, kind, message_id, result)
    else:
        payload = _content(file, binary) if file is not None else os.fsencode(message or "")
        _one(target, channel, kind, payload, message_id, result)


def _content(file: Path, binary: bool) -> bytes:
    from broker.cli.publishing import MOST_LINE_BYTES

    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_LINE_BYTES + 1)
    except OSError as error:
        end(f"--file {file}: {(error.strerror or 'cannot be read').lower()}", EXIT_USAGE)
    if len(content) > MOST_LINE_BYTES:
        end(f"--file {file}: larger than 4 MiB, which no broker takes as one message", EXIT_USAGE)
    return binascii.b2a_base64(content, newline=False) if binary else content


def _one(target: Target, channel: str, kind: "Kind", payload: bytes, message_id: str | None, result: bool) -> None:
    from broker.cli.api import Api
    from broker.cli.publishing import MessageError, Publisher, PublishError, entry

    try:
        content = entry(channel, kind, payload, message_id)
    except MessageError as error:
        end(f"the message {error}", EXIT_USAGE)
    with Api(target) as api:
        try:
            answer = Publisher(api, message_id is not None).one(content)
        except PublishError as error:
            end(error.line)
    _show([answer], result)


def _lines(target: Target, channel: str, kind: "Kind", message_id: str | None, result: bool) -> None:
    from broker.cli.api import Api
    from broker.cli.publishing import MessageError, Publisher, lines_as_they_come

    if sys.stdin is None:  # <&-
        end("standard input is closed", EXIT_USAGE)
    progress = Progress(sys.stderr.isatty())
    fd = sys.stdin.fileno()
    with Api(target) as api:
        publisher = Publisher(api, message_id is not None)
        try:
            for lines in lines_as_they_come(lambda size: os.read(fd, size)):
                _some_lines(publisher, lines, channel, kind, message_id, result, progress)
        except MessageError as error:
            progress.clear()
            end(f"line {progress.count + 1} {error}")
        except OSError as error:
            progress.clear()
            end(f"standard input cannot be read after line {progress.count}: {error.strerror}")
    progress.finish()


def _some_lines(
    publisher: "Publisher",
    lines: list[bytes],
    channel: str,
    kind: "Kind",
    message_id: str | None,
    result: bool,
    progress: "Progress",
) -> None:
    """Publishes what is right of `lines` even if a later one is no message. Raises MessageError."""
    from broker.cli.publishing import MessageError, PublishError, batches, entry

    entries: list[bytes] = []
    wrong: MessageError | None = None
    for number, line in enumerate(lines, progress.count + 1):
        try:
            entries.append(entry(channel, kind, line, None if message_id is None else f"{message_id}-{number}"))
        except MessageError as error:
            wrong = error
            break
    for batch in batches(entries):
        try:
            answers = publisher.many(batch)
        except PublishError as error:
            _show(error.answers, result)
            progress.clear()
            end(f"line {progress.count + len(error.answers) + 1}: {error.line}")
        _show(answers, result)
        progress.add(len(batch))
    if wrong is not None:
        raise wrong


def _show(answers: Sequence[Any], wanted: bool) -> None:
    if wanted:
        import msgspec

        for answer in answers:
            put(msgspec.json.encode(answer))


class Progress:
    """How many lines are published; shown on a terminal once it takes long enough to wonder."""

    def __init__(self, shown: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._shown = shown
        self._clock = clock
        self._start = self._last = clock()
        self._drawn = False

    def add(self, count: int) -> None:
        self.count += count
        now = self._clock()
        if self._shown and now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._drawn = True
            rate = self.count / (now - self._start)
            click.echo(f"\r\x1b[K{self.count} published, {rate:.0f} a second", nl=False, err=True)

    def clear(self) -> None:
        if self._drawn:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._drawn = False

    def finish(self) -> None:
        if self._drawn:
            self.clear()
            say(f"{self.count} published")
