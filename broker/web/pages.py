"""The pages that the broker serves itself: today the demo page of `serve --dev`.

Owns their bytes and the headers that belong to them; the files are read once, at start, never per request.
Called by whoever answers plain HTTP on the WebSocket port. It never sees a request and never writes to a socket.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

import msgspec

_INLINE = {kind: re.compile(rb"<%b>(.*?)</%b>" % (kind, kind), re.DOTALL) for kind in (b"script", b"style")}


class Page(msgspec.Struct, frozen=True, gc=False):
    """One page, ready to send; `headers` holds all but the length and the connection's own headers."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


def load_pages() -> Mapping[str, Page]:
    """Request path → page, read from the package's files."""
    return MappingProxyType({"/": html_page(files(__package__).joinpath("demo.html").read_bytes())})


def html_page(body: bytes) -> Page:
    """A self-contained page: nothing but its own inline style and script runs, and it speaks only to this host."""
    return Page(
        body,
        (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", _content_security_policy(body)),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-cache"),
        ),
    )


def _content_security_policy(body: bytes) -> str:
    # CSP level 3 lets 'self' stand for ws: and wss: of the page's own host and port too; browsers of level 2 do not,
    # so loopback, where the demo lives, is named besides. Trusted types: a message can never become markup.
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash_source(body, b'script')}",
            f"style-src {_hash_source(body, b'style')}",
            "connect-src 'self' ws://localhost:* ws://127.0.0.1:*",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash_source(body: bytes, kind: bytes) -> str:
    found = _INLINE[kind].findall(body)
    if len(found) != 1:
        raise ValueError(f"a page has exactly one inline <{kind.decode()}>, this one has {len(found)}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[0]).digest()).decode()}'"
