"""How a command ends when it cannot go on: one line on standard error, and an exit code that scripts can trust."""

import importlib
import sys

import click

EXIT_CANNOT_RUN = 1
EXIT_USAGE = 2


def check_system() -> None:
    """Ends with one line if this machine or this installation cannot run the broker."""
    if not sys.platform.startswith("linux"):
        end(f"runs on Linux only (it needs epoll and SO_REUSEPORT); this is {sys.platform}")
    try:
        importlib.import_module("broker.native._reactor")
    except ImportError as error:
        end(
            f"the native core is not built or does not fit this Python ({error}); "
            "run `make build`, or install the wheel"
        )


def end(line: str, code: int = EXIT_CANNOT_RUN) -> None:
    click.echo(f"ws-broker: {line}", err=True)
    raise SystemExit(code)
