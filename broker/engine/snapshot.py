"""A history in a file, from the end of one process to the start of the next.

Written once, when the process has been told to end; read once, at the start, and removed before it is used: a file that
is there a second time would hand out offsets that were given already. Whatever is wrong with it (old, cut, damaged,
another version's) means a new epoch and one line in the log, never a start that fails.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker.config.schema import Config
from broker.engine.history import History, State
from broker.log import get_logger

log = get_logger(__name__, limited=False)

NAME = "history.snapshot"
# The digit is the version of what follows. Then SHA-256 of the rest.
MAGIC = b"ws-broker history 1\n"
_HEAD_BYTES = len(MAGIC) + 32


class _Contents(msgspec.Struct, frozen=True, gc=False):
    saved: float
    state: State


def open_history(config: Config) -> History:
    """For whoever runs the engine: what the last process left, if there is anything of use; else an empty one."""
    limits, state = config.limits, None
    if config.server.state_directory:
        # Everything that is counted, ids as long as they may be, and room for channels that are joined and empty.
        most_bytes = 2 * limits.history_bytes + 1024 * limits.message_ids + 2**24
        state = restore(Path(config.server.state_directory), most_bytes, limits.snapshot_seconds, time.time)
    return History(limits.history_bytes, limits.message_ids, time.time, state)


def save_history(config: Config, history: History) -> None:
    """At the end of whoever runs the engine. A failure costs the history, not the end."""
    if config.server.state_directory:
        try:
            save(Path(config.server.state_directory), history.state(), time.time())
        except OSError as error:
            log.error("history is lost with this process", error=str(error))


def save(directory: Path, state: State, now: float) -> None:
    """Whole or not at all: what is there under the name was written and synced completely. Raises OSError."""
    body = msgspec.msgpack.encode(_Contents(now, state))
    target = directory / NAME
    draft = directory / (NAME + ".draft")
    # 0600: it holds what was published.
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(file, "wb") as out:
        out.write(MAGIC)
        out.write(hashlib.sha256(body).digest())
        out.write(body)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(target)
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # the rename, too, survives a power failure
    finally:
        os.close(folder)


def restore(directory: Path, most_bytes: int, most_seconds: float, clock: Callable[[], float]) -> State | None:
    """What the last process kept; None: there is nothing, or nothing that may be used."""
    path = directory / NAME
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
        path.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("history of the last process is not used", path=str(path), why=error.strerror or str(error))
        return None
    problem = "it is larger than this configuration could have written"
    if len(data) <= most_bytes:
        found = _read(data)
        if isinstance(found, _Contents):
            age = clock() - found.saved
            if 0 <= age <= most_seconds:
                return found.state
            problem = f"it is {age:.0f} seconds old"
        else:
            problem = found
    log.warning("history of the last process is not used", path=str(path), why=problem)
    return None


def _read(data: bytes) -> _Contents | str:
    if not data.startswith(MAGIC):
        return "it is no snapshot of this version"
    if hashlib.sha256(data[_HEAD_BYTES:]).digest() != data[len(MAGIC) : _HEAD_BYTES]:
        return "it is damaged"
    try:
        return msgspec.msgpack.decode(data[_HEAD_BYTES:], type=_Contents)
    except msgspec.MsgspecError:
        return "it is no snapshot of this version"
