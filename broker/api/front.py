"""The first to see a request: lets it in or not, publishes, and hands everything else to the application.

An ASGI application around the other one. What publishes is answered here, past the framework's routing, dependency
injection and response objects, which cost more than the publish itself; what it answers stands in the same OpenAPI
document. Here, too, is the one place where an error becomes a problem document, and where answers are counted.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from broker.api.access import Access, Headers
from broker.api.problems import Problem
from broker.api.publishing import Publishing
from broker.api.requestlog import RequestLog
from broker.log import get_logger
from broker.protocol.names import percent_decode

log = get_logger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

DOCUMENT_PATH = "/v1/openapi.json"
PUBLISH_PATH = "/v1/publish"
_CHANNELS, _MESSAGES = "/v1/channels/", "/messages"

_JSON = (b"content-type", b"application/json")


class GoneError(Exception):
    """The client went before its body had come."""


class Front:
    """`on_answer` is told the status of each answer, `on_done` how many ns each request took; `application` finds the
    key in `scope["key"]`.
    """

    def __init__(
        self,
        access: Access,
        publishing: Publishing,
        application: Application,
        document: bytes,
        max_body_bytes: int,
        on_answer: Callable[[int], None],
        on_done: Callable[[int], None] = lambda ns: None,
    ) -> None:
        self._access = access
        self._publishing = publishing
        self._application = application
        self._document = document
        self._max_body_bytes = max_body_bytes
        self._on_answer = on_answer
        self._on_done = on_done
        self.requests: RequestLog | None = None

    def log_requests(self, wanted: bool) -> None:
        self.requests = RequestLog(_route) if wanted else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self.requests is not None:
            await self.requests.follow(self._timed, scope, receive, send)
        else:
            await self._timed(scope, receive, send)

    async def _timed(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_ns = time.monotonic_ns()
        try:
            await self._answer(scope, receive, send)
        except Problem as problem:
            await self._refuse(send, problem)
        except GoneError:
            pass
        except Exception:
            # Neither path nor headers: they are a stranger's text.
            log.exception("request of the API failed")
            await self._refuse(send, Problem("internal_error"))
        finally:
            self._on_done(time.monotonic_ns() - began_ns)

    async def _refuse(self, send: Send, problem: Problem) -> None:
        self._on_answer(problem.status)
        await respond(send, problem.status, problem.all_headers(), problem.body())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = scope["headers"]
        self._access.check_place(headers)
        # Undecoded: %2F in a channel or a user is no slash of the path. Whoever takes a parameter decodes it.
        path = scope["raw_path"].decode("ascii")
        method = scope["method"]
        if path == DOCUMENT_PATH and method in ("GET", "HEAD"):
            body = self._document
        else:
            key = scope["key"] = self._access.key(headers)
            if path == PUBLISH_PATH:
                if method != "POST":
                    raise Problem("method_not_allowed", headers=((b"allow", b"POST"),))
                key.need("publish")
                body = await self._publishing.publish(key, await self._body(headers, receive))
            elif method == "POST" and path.startswith(_CHANNELS) and path.endswith(_MESSAGES):
                key.need("publish")
                body = await self._publish_body(scope, path[len(_CHANNELS) : -len(_MESSAGES)], headers, receive)
            elif not path.startswith("/v1/"):
                # The framework has pages of its own for its document, whose scripts come from somewhere else.
                raise Problem("not_found")
            else:
                scope["path"] = path
                await self._application(scope, receive, self._counting(send))
                return
        self._on_answer(200)
        await respond(send, 200, [_JSON], body)

    async def _publish_body(self, scope: Scope, segment: str, headers: Headers, receive: Receive) -> bytes:
        key = self._access.key(headers)
        content_type = _single(headers, b"content-type")
        message_id = _single(headers, b"idempotency-key")
        text = None
        if message_id is not None:
            try:
                text = message_id.decode()
            except UnicodeDecodeError:
                raise Problem("bad_field", "Idempotency-Key is not UTF-8") from None
            if len(text) > 1 and text[0] == text[-1] == '"':  # an Item of RFC 9651, as the header's draft has it
                text = text[1:-1]
        payload = await self._body(headers, receive)
        return await self._publishing.publish_body(key, decoded(segment, "bad_channel"), content_type, text, payload)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole of it. Raises Problem, GoneError."""
        most = self._max_body_bytes
        for name, value in headers:
            if name == b"content-length" and int(value) > most:
                raise self._too_large()
            if name == b"content-encoding":
                raise Problem("unsupported_type", "bodies are taken without Content-Encoding")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise GoneError
            body: bytes = message.get("body", b"")
            size += len(body)
            if size > most:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join((*parts, body)) if parts else body
            parts.append(body)

    def _too_large(self) -> Problem:
        return Problem("too_large", f"a body has at most {self._max_body_bytes} bytes")

    def _counting(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._on_answer(message["status"])
            await send(message)

        return counted


async def respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    # Nobody may take it for anything else, or keep it.
    headers = [
        *headers,
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str | None:
    """The path with names in the place of what a client chose; None: of no route."""
    template: str | None = scope.get("path_template")
    if template:
        return template
    path = scope["raw_path"].decode("ascii", "replace")
    if path in (PUBLISH_PATH, DOCUMENT_PATH):
        return str(path)
    channel = path[len(_CHANNELS) : -len(_MESSAGES)]
    if path.startswith(_CHANNELS) and path.endswith(_MESSAGES) and channel and "/" not in channel:
        return f"{_CHANNELS}{{channel}}{_MESSAGES}"
    return None


def decoded(segment: str, code: str) -> str:
    """A segment of a path, percent-decoded once, by the rule of all doors. Raises Problem."""
    text = percent_decode(segment)
    if text is None:
        raise Problem(code, "a % in the path stands alone, or what it encodes is not UTF-8")
    return text


def _single(headers: Headers, wanted: bytes) -> bytes | None:
    found = [value for name, value in headers if name == wanted]
    if len(found) > 1:
        raise Problem("bad_request", f"more than one {wanted.decode().title()} header")
    return found[0].strip(b" \t") if found else None
