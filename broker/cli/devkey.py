"""The API key of one run of `serve --dev`: made at start, gone at the end, found by the commands of the same user.

The broker's configuration gets its hash. The text stands in the line that the start prints and in a private file, in
`$XDG_RUNTIME_DIR/ws-broker/` or `ws-broker-<uid>/` in `$TMPDIR` or /tmp. The file is locked while its broker lives: one
that nobody locks was left by a broker that was killed; commands pass over it, the next start removes it.
Never made without `server.dev`.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from broker.cli.files import private_folder

if TYPE_CHECKING:
    from broker.config.schema import Config, Scope

NAME = "dev"
SCOPES: "tuple[Scope, ...]" = ("publish", "read", "admin")
_MOST_BYTES = 4096


class DevBroker(NamedTuple):
    """A broker with --dev that lives on this machine and is ours."""

    api_url: str
    url: str
    key: str

    def __repr__(self) -> str:
        return f"DevBroker({self.api_url!r}, {self.url!r})"


class DevKey:
    """`text` is secret outside of the two places above."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = new_key()

    @property
    def sha256(self) -> str:
        return digest(self.text)

    @contextmanager
    def held(self, api_url: str, url: str) -> Iterator[bool]:
        """The file is there as long as the context lasts. Gives False if it could not be written."""
        written = _write(DevBroker(api_url, url, self.text))
        try:
            yield written is not None
        finally:
            if written is not None:
                path, fd = written
                with suppress(OSError):
                    path.unlink()
                os.close(fd)


def with_key(config: "Config", key: DevKey) -> "Config":
    """The configuration in which the key holds; unchanged without server.dev. Raises ConfigError."""
    if not config.server.dev or not config.api.listen:
        return config
    import msgspec

    from broker.config.errors import ConfigError
    from broker.config.schema import ApiKey

    if NAME in config.api.keys:
        raise ConfigError([f"api.keys.{NAME}: this name is for the key that server.dev makes; choose another"])
    keys = {**config.api.keys, NAME: ApiKey(sha256=key.sha256, scopes=SCOPES)}
    return msgspec.structs.replace(config, api=msgspec.structs.replace(config.api, keys=keys))


@contextmanager
def announced(
    config: "Config", key: DevKey, address: tuple[str, int], api_address: tuple[str, int] | None
) -> Iterator[list[str]]:
    """Lets the commands find the broker that listens on `address`, its API on `api_address`, while the context lasts.
    Gives lines for people.
    """
    if NAME not in config.api.keys or api_address is None:
        yield []
        return
    api_url = f"http://{reachable(*api_address[:2])}"
    with key.held(api_url, f"ws://{reachable(*address[:2])}/ws") as found:
        lines = [
            "publish from a shell, with the key of this run:",
            f"  curl -H 'Authorization: Bearer {key.text}' -d 'hello' {api_url}/v1/channels/news/messages",
        ]
        if found:
            lines.append("or, without it: ws-broker publish news hello")
        yield lines


def reachable(host: str, port: int) -> str:
    """HOST:PORT for a URL; where every address is listened on, that of this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def new_key() -> str:
    """256 random bits; the beginning is for people and for scanners that look for secrets in the wrong place."""
    return f"wsb_{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def folders() -> list[Path]:
    """Where the file may be, the best place first. /tmp as well: `su` and `sudo` leave a session without its own."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    found = [Path(runtime) / "ws-broker"] if os.path.isabs(runtime) else []
    temporary = os.environ.get("TMPDIR", "")
    return [*found, Path(temporary if os.path.isabs(temporary) else "/tmp") / f"ws-broker-{os.getuid()}"]


def living() -> list[DevBroker]:
    """Every broker with --dev of this user that lives, sorted by address."""
    found = []
    for folder in folders():
        for path in _files(folder):
            fd = _open(path)
            if fd is None:
                continue
            with open(fd, "rb") as file:
                if not _abandoned(fd) and (broker := _read(file.read(_MOST_BYTES))) is not None:
                    found.append(broker)
    return sorted(set(found))


def _write(broker: DevBroker) -> tuple[Path, int] | None:
    for folder in folders():
        with suppress(OSError):
            folder.mkdir(mode=0o700)
        if not private_folder(folder):
            continue
        _sweep(folder)
        name = f"dev-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            # Locked before it has the name that others look for: nobody takes it for abandoned.
            fd = os.open(folder / f".{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue
        path = folder / f"{name}.json"
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, json.dumps(broker._asdict()).encode())
            os.rename(folder / f".{name}", path)
        except OSError:
            os.close(fd)
            continue
        return path, fd
    return None


def _sweep(folder: Path) -> None:
    for path in _files(folder):
        fd = _open(path)
        if fd is not None:
            if _abandoned(fd):
                with suppress(OSError):
                    path.unlink()
            os.close(fd)


def _files(folder: Path) -> list[Path]:
    if not private_folder(folder):
        return []
    try:
        return sorted(folder.glob("dev-*.json"))
    except OSError:
        return []


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None


def _abandoned(fd: int) -> bool:
    """Shared: two commands that look at the same moment do not take each other for the broker."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(content: bytes) -> DevBroker | None:
    try:
        found = json.loads(content)
        broker = DevBroker(found["api_url"], found["url"], found["key"])
    except (ValueError, KeyError, TypeError):
        return None
    return broker if all(isinstance(one, str) for one in broker) else None
