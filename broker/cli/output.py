"""Standard output as a good member of a pipe: whole lines, written at once, and no complaint when nobody reads on."""

import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from broker.cli.ends import end

# C0, DEL and C1: what could move the cursor, ring or change the title of a terminal that shows somebody's message.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROL_OR_BREAK = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def put(line: bytes | str) -> None:
    """Writes one line. Ends the command if that fails: with 0 if nobody reads on (`| head -1`), else with 1."""
    if sys.stdout is None:  # >&-
        end("standard output is closed")
    data = line.encode("utf-8", "backslashreplace") if isinstance(line, str) else line
    try:
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        had_enough()
    except OSError as error:
        _forget_output()
        end(f"cannot write to standard output: {error.strerror}")


def had_enough() -> NoReturn:
    """Ends the command: nobody reads its output any more, which is no fault of anybody."""
    _forget_output()
    raise SystemExit(0)


def _forget_output() -> None:
    # What is left in the buffer would fail again, with a traceback, when Python ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def harmless(text: str) -> str:
    """As it may be shown in a terminal: no control characters but tab and line feed."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def cell(text: str) -> str:
    """As it may stand in a line: no control characters and no breaks at all."""
    return _CONTROL_OR_BREAK.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the last one unpadded."""
    shown = [list(head), *([cell(text) for text in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in shown]
