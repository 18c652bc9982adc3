"""Reads what must stay secret, and public keys beside it, from a file or an environment variable named by a setting.

Called at start and on reload, by `keys` and `hook`. Whatever is wrong becomes a line for ConfigError that names the
setting and never the content. Environment and files only: arguments are seen by everybody on the machine.
"""

import os
import stat
from collections.abc import Mapping

# An RSA key of 8192 bits in PEM has 1.5 KB; a path mistaken for a log's must not fill the memory.
MAX_SECRET_BYTES = 65_536


class Reader:
    """Collects `problems`, which forbid the start, and `warnings`, which do not."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def read(self, path: str, file: str, variable: str, names: tuple[str, str], *, secret: bool) -> bytes | None:
        """The content without the line end that editors add; None if there is a problem. Exactly one of `file` and
        `variable` is given.

        `path`: dotted path of the table; `names`: its keys for the two. A `secret` file that everybody may read is
        warned of.
        """
        where = f"{path}.{names[0] if file else names[1]}"
        content = self._file(where, file, secret) if file else self._variable(where, variable)
        if content is None:
            return None
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        if not content.strip():
            self.problems.append(f"{where}: is empty; nobody could be told apart with it")
            return None
        return content

    def _variable(self, where: str, name: str) -> bytes | None:
        text = self._environment.get(name)
        if text is None:
            self.problems.append(f"{where}: there is no environment variable of this name")
            return None
        return text.encode("utf-8", "surrogateescape")

    def _file(self, where: str, path: str, secret: bool) -> bytes | None:
        try:
            # Not blocking: a FIFO would hold the start until somebody writes to it.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no path"
            self.problems.append(f"{where}: {path!r} cannot be read: {reason.lower()}")
            return None
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            self.problems.append(f"{where}: {path!r} is no regular file")
            return None
        with open(fd, "rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        if len(content) > MAX_SECRET_BYTES:
            self.problems.append(f"{where}: {path!r} is larger than {MAX_SECRET_BYTES // 1024} KiB, which is no key")
            return None
        if secret and status.st_mode & stat.S_IROTH:
            self.warnings.append(f"{where}: everybody on this machine may read {path!r}; chmod o= it")
        return content
