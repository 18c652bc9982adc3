"""Which broker a client command means, and the key or token it shows there: flags, environment, or a --dev broker.

Secrets come from a file or the environment, never from a flag, which every user of the machine can read in `ps`.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from broker.cli.devkey import DevBroker, living
from broker.cli.ends import EXIT_USAGE, end
from broker.cli.files import read_secret

DEFAULT_API_URL = "http://127.0.0.1:8001"
DEFAULT_URL = "ws://127.0.0.1:8000/ws"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# RFC 6750 section 2.1. Anything else could not stand in a header, or would end it.
_BEARER = re.compile(r"[A-Za-z0-9._~+/=-]+")

Command = TypeVar("Command", bound=Callable[..., Any])


class Target(NamedTuple):
    """Where the HTTP API is. `key` None: there is none; `source` says where it came from, for errors."""

    url: str
    key: str | None
    source: str

    def __repr__(self) -> str:
        return f"Target({self.url!r}, key from {self.source})"


class Door(NamedTuple):
    """Where the WebSocket is. Whoever renews `token_file` is heard: see `renewed`."""

    url: str
    token_file: Path | None

    def token(self) -> str | None:
        """Ends the command if it cannot be right."""
        if self.token_file is not None:
            return _bearer(read_secret(self.token_file, "--token-file").decode("latin-1"), "--token-file")
        token = os.environ.get("WSBROKER_TOKEN", "")
        return _bearer(token, "WSBROKER_TOKEN") if token else None

    def renewed(self) -> str | None:
        """What stands in the file by now. None: no file, or none that can be used at this moment: a shell that writes
        it (`> FILE`) empties it first.
        """
        try:
            content = b"" if self.token_file is None else self.token_file.read_bytes()
        except OSError:
            return None
        token = content.decode("latin-1").rstrip("\r\n")
        return token if _BEARER.fullmatch(token) else None


def api_options(command: Command) -> Command:
    """Gives a command `api_url` and `api_key_file`, for `find_api`."""
    command = click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File with the API key. [default: WSBROKER_API_KEY, else the key of your own `serve --dev`]",
    )(command)
    return click.option(
        "--api-url",
        envvar="WSBROKER_API_URL",
        metavar="URL",
        help=f"The broker's HTTP API. [default: WSBROKER_API_URL, else your own `serve --dev`, else {DEFAULT_API_URL}]",
    )(command)


def find_api(api_url: str | None, api_key_file: Path | None) -> Target:
    brokers = living()
    if api_url:
        url = check_url(api_url, ("http", "https"), "--api-url or WSBROKER_API_URL")
    else:
        url = _only_one([one.api_url for one in brokers], DEFAULT_API_URL, "--api-url")
    if api_key_file is not None:
        key = _bearer(read_secret(api_key_file, "--api-key-file").decode("latin-1"), "--api-key-file")
        return Target(url, key, "--api-key-file")
    if key := os.environ.get("WSBROKER_API_KEY", ""):
        return Target(url, _bearer(key, "WSBROKER_API_KEY"), "WSBROKER_API_KEY")
    for broker in brokers:
        if _same(broker.api_url, url):
            return Target(url, broker.key, "the broker with --dev")
    return Target(url, None, "nowhere")


def find_door(url: str | None, token_file: Path | None) -> Door:
    if url:
        return Door(check_url(url, ("ws", "wss"), "--url or WSBROKER_URL"), token_file)
    brokers: list[DevBroker] = living()
    return Door(_only_one([one.url for one in brokers], DEFAULT_URL, "--url"), token_file)


def check_url(text: str, schemes: tuple[str, str], where: str) -> str:
    """Without a slash at its end. Ends the command if it is no URL of one of the schemes."""
    try:
        parts = urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        end(f"{where}: not a URL that can be read; it looks like {schemes[0]}://HOST:PORT", EXIT_USAGE)
    if parts.username is not None or parts.password is not None:
        end(f"{where}: no user and no password in a URL, where everybody can read them", EXIT_USAGE)
    if parts.scheme not in schemes or not parts.hostname or not port_fits or re.search(r"[\s\x00-\x1f\x7f]", text):
        end(f"{where}: {text!r} is not {schemes[0]}://HOST:PORT or {schemes[1]}://HOST:PORT", EXIT_USAGE)
    return text.rstrip("/")


def is_loopback_url(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK


def _only_one(urls: list[str], default: str, flag: str) -> str:
    if not urls or default in urls:
        return default
    if len(set(urls)) > 1:
        end(f"several brokers run with --dev; say which with {flag}: {', '.join(sorted(set(urls)))}", EXIT_USAGE)
    return urls[0]


def _same(one: str, other: str) -> bool:
    """The same, or the same port of this machine."""
    if one == other:
        return True
    a, b = urlsplit(one), urlsplit(other)
    return a.scheme == b.scheme and a.port == b.port and a.hostname in _LOOPBACK and b.hostname in _LOOPBACK


def _bearer(text: str, where: str) -> str:
    if _BEARER.fullmatch(text) is None:
        end(f"{where}: holds characters that no key and no token has (a line end, a blank, a quote?)", EXIT_USAGE)
    return text
