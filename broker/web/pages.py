"""The files that the broker serves itself: the client, and the demo page of `serve --dev`.

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

_INLINE = {
    kind: re.compile(rb"<%b(?: type=module)?>(.*?)</%b>" % (kind, kind), re.DOTALL) for kind in (b"script", b"style")
}


class Page(msgspec.Struct, frozen=True, gc=False):
    """One page, ready to send; `headers` holds all but the length and the connection's own headers."""

    body: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def etag(self) -> str:
        """Strong: the same bytes, whichever worker or host of the same version serves them."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


def load_pages(*, dev: bool) -> Mapping[str, Page]:
    """Request path → page, read from the package's files."""
    folder = files(__package__)
    pages = {"/client.js": module_page(folder.joinpath("client.js").read_bytes())}
    if dev:
        pages["/"] = html_page(folder.joinpath("demo.html").read_bytes())
    return MappingProxyType(pages)


def module_page(body: bytes) -> Page:
    """A JavaScript module that pages of any origin import: it holds nothing that is not public."""
    return Page(
        body,
        (
            ("Content-Type", "text/javascript; charset=utf-8"),
            ("X-Content-Type-Options", "nosniff"),
            # Module scripts are fetched by CORS; pages with COEP: require-corp ask for the second besides.
            ("Access-Control-Allow-Origin", "*"),
            ("Cross-Origin-Resource-Policy", "cross-origin"),
            # An upgrade reaches pages within minutes, and nobody waits for the answer "unchanged".
            ("Cache-Control", "public, max-age=300, stale-while-revalidate=86400"),
        ),
    )


def html_page(body: bytes) -> Page:
    """A page in which its own inline style and script run and what this host serves; it speaks only to this host."""
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
            f"script-src 'self' {_hash_source(body, b'script')}",
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
