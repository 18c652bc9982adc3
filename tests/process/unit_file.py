"""A systemd unit as its file says, and a broker that is started as that unit would start it, without systemd."""

import re
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.process.command import COMMAND, ROOT, Served, environment, kept
from tests.process.systemd import handed_over

FOLDER = ROOT / "deploy" / "systemd"
PROGRAM = "/opt/ws-broker/current/bin/ws-broker"
CONFIGURATION = "/etc/ws-broker/broker.toml"
STATE = "/var/lib/ws-broker"
SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "ms": 0.001}


class Unit:
    """`values(key)`: everything that the file sets for it, in order, without what an empty assignment takes back."""

    def __init__(self, name: str) -> None:
        self.text = (FOLDER / name).read_text()
        self.settings = re.findall(r"^(\w+)=(.*)$", self.text, re.MULTILINE)

    def values(self, key: str) -> list[str]:
        found: list[str] = []
        for name, value in self.settings:
            if name == key:
                found = [*found, value] if value else []
        return found

    def value(self, key: str) -> str:
        (value,) = self.values(key)
        return value

    def seconds(self, key: str) -> float:
        number, unit = re.fullmatch(r"(\d+)(\w*)", self.value(key)).groups()  # type: ignore[union-attr]
        return float(number) * SECONDS[unit]


def in_folder(text: str, folder: Path) -> str:
    """The unit's paths as the test has them. The state is the only one that need not be there before."""
    return text.replace(CONFIGURATION, str(folder / "broker.toml")).replace(STATE, str(folder / "state"))


def command_line(command: str, folder: Path) -> list[str]:
    """As systemd reads it, with this checkout's program in the place of the installed one."""
    program, *arguments = shlex.split(in_folder(command, folder))
    assert program == PROGRAM
    return [*COMMAND, *arguments]


def variables(unit: Unit, folder: Path) -> dict[str, str]:
    return dict(
        assignment.split("=", 1)
        for line in unit.values("Environment")
        for assignment in shlex.split(in_folder(line, folder))
    )


@contextmanager
def started(
    folder: Path,
    listeners: Mapping[str, socket.socket],
    extra: Mapping[str, str],
    prefix: Sequence[str] = (),
) -> Iterator[Served]:
    """The service as its unit starts it, with `listeners` passed by their names. `prefix` becomes the command."""
    unit = Unit("ws-broker.service")
    (folder / "state").mkdir(exist_ok=True)
    before = [*handed_over(*listeners.values(), names=list(listeners)), *prefix]
    with kept(
        [*before, *command_line(unit.value("ExecStart"), folder)],
        {**environment(), **variables(unit, folder), **extra},
        [listener.fileno() for listener in listeners.values()],
    ) as served:
        yield served
