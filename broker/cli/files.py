"""Secrets in files: read without a trace of their content in errors, written so that nobody else can read them."""

import os
import stat
from pathlib import Path

from broker.cli.ends import EXIT_USAGE, end

# An RSA key of 8192 bits in PEM has 6 KB; a path mistaken for a log's must not fill the memory.
_MOST_BYTES = 65_536


def read_secret(path: Path, flag: str) -> bytes:
    """The content without the line end that editors add. Ends the command if it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        end(f"{flag} {path}: {(error.strerror or 'cannot be read').lower()}", EXIT_USAGE)
    if len(content) > _MOST_BYTES:
        end(f"{flag} {path}: larger than 64 KiB, which is no key and no token", EXIT_USAGE)
    content = content.removesuffix(b"\n").removesuffix(b"\r")
    if not content.strip():
        end(f"{flag} {path}: is empty", EXIT_USAGE)
    return content


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Creates the file with this mode from its first moment. Never overwrites: a lost key cannot be had again."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        end(f"{path} is there already, and keys are never overwritten; name another place")
    except OSError as error:
        end(f"{path} cannot be written: {(error.strerror or str(error)).lower()}")
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)  # whatever the umask was
        file.write(content)


def private_folder(path: Path) -> bool:
    """Whether the folder is ours and nobody else's: in /tmp anybody could have made it before us."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
