"""How a command ends when it cannot go on: one line on standard error, and an exit code that scripts can trust."""

import importlib
import sys
from typing import NoReturn

import click

EXIT_CANNOT_RUN = 1
EXIT_USAGE = 2
# The question was answered, and the answer is that there is none: as grep tells "no match" from trouble.
EXIT_NOTHING_FOUND = 3
# 128 + SIGINT, as a shell reports a command that Ctrl-C ended.
EXIT_INTERRUPTED = 130


def check_system() -> None:
    """Ends with one line if this machine or this installation cannot run the broker."""
    if not sys.platform.startswith("linux"):
        end(f"runs on Linux only (it needs epoll and SO_REUSEPORT); this is {sys.platform}")
    if not sys.flags.hash_randomization:
        # Names of channels, ids and addresses are keys of tables, and strangers choose them.
        end("PYTHONHASHSEED=0 lets any client make every table slow (hash flooding); take it out of the environment")
    try:
        importlib.import_module("broker.native._reactor")
    except ImportError as error:
        end(
            f"the native core is not built or does not fit this Python ({error}); "
            "run `make build`, or install the wheel"
        )


def say(line: str) -> None:
    """One line for people, on standard error."""
    click.echo(f"ws-broker: {line}", err=True)


def end(line: str, code: int = EXIT_CANNOT_RUN) -> NoReturn:
    say(line)
    raise SystemExit(code)
