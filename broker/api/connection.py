"""One HTTP connection: uvicorn's protocol on httptools, with what it lacks on an open port.

llhttp is strict about everything that smuggles requests; here is what it leaves to its user, and every time limit and
size that uvicorn does not know: the whole of a request has a deadline, however its bytes drip in; heads have a size;
nothing follows a request that asked to close or to upgrade; trailers are no headers.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from broker.api.problems import Problem


class Bounds(msgspec.Struct, frozen=True):
    """Of one connection."""

    request_seconds: float
    keep_alive_seconds: float
    max_head_bytes: int
    max_headers: int
    max_connections: int


class ApiConnection(HttpToolsProtocol):
    """`due`: when whatever it waits for has taken too long, by the loop's clock; `look` acts on that.

    `on_refused` is told the status of each answer that no application gave.
    """

    def __init__(self, config: Config, state: ServerState, bounds: Bounds, on_refused: Callable[[int], None]) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        # Without the leniency that uvicorn sets: whatever follows a request that said `close` is no request.
        self.parser = httptools.HttpRequestParser(self)
        self.access_log = False
        self._bounds = bounds
        self._on_refused = on_refused
        self._over = False  # nothing more is read
        self._last = False  # the next answer is the last one
        self._receiving = False
        self._in_head = False
        self._head_bytes = 0
        self._unanswered = 0
        self.due = self.loop.time() + bounds.keep_alive_seconds

    # Transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.max_connections:
            self._refuse(Problem("overloaded"))

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if not self._receiving:
            # Whatever comes begins a request, be it an empty line.
            self._receiving, self._in_head, self._head_bytes = True, True, 0
            if not self._unanswered:
                self.due = self.loop.time() + self._bounds.request_seconds
        try:
            if self._in_head and self._head_bytes + len(data) > self._bounds.max_head_bytes:
                self._feed_in_pieces(data)
            else:
                self._head_bytes += len(data)
                self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._over = True  # the answer to it closes
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Problem) else Problem("bad_request"))
        except httptools.HttpParserError:
            self._refuse(Problem("bad_request"))

    def _feed_in_pieces(self, data: bytes) -> None:
        """More than a head may have: only as much of it as could still be one, then whatever follows."""
        room = self._bounds.max_head_bytes - self._head_bytes
        self._head_bytes = self._bounds.max_head_bytes
        self.parser.feed_data(data[:room])
        if self._in_head and self._head_bytes >= self._bounds.max_head_bytes:
            self._refuse(Problem("head_too_large"))
            return
        if not self._over:
            self.data_received(data[room:])

    # Parser.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._in_head = True, True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer (RFC 9110 section 6.5.1: to be ignored unless it is known to be safe)
        if len(self.headers) >= self._bounds.max_headers:
            raise Problem("head_too_large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Problem("bad_request")
        for name, value in self.headers:
            # In HTTP/1.0 it means nothing, and so to each something else (RFC 9112 section 6.1); of codings, chunked
            # is the one that is undone here.
            if name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
                raise Problem("bad_request")
        self._in_head, self._head_bytes = False, 0
        self._unanswered += 1
        super().on_headers_complete()
        if self._last or self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._receiving = False
        self._head_bytes = 0
        self.due = self.loop.time() + self._bounds.request_seconds  # for whoever does not read the answer
        super().on_message_complete()

    # Answers.

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        if self.transport.is_closing() or not self.cycle.keep_alive:
            self._over = True
            if self._receiving and not self.transport.is_closing():
                self.transport.close()
            return
        if self._receiving and self._unanswered == 0 and not self._in_head:
            # Answered before its body had come: what is left of it is not worth to be read.
            self._over = True
            self.transport.close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        wait = self._bounds.request_seconds if self._receiving or self._unanswered else self._bounds.keep_alive_seconds
        self.due = self.loop.time() + wait

    def _refuse(self, problem: Problem) -> None:
        """Answers what is no request, or not a whole one, and closes. Behind requests that are not answered yet it
        only closes: an answer would be taken for theirs.
        """
        self._over = True
        owed = self._unanswered
        if owed and not self._in_head:  # the one whose body is broken
            owed -= 1
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                owed += 1
        if not owed and not self.transport.is_closing():
            self._on_refused(problem.status)
            body = problem.body()
            lines = [STATUS_LINE[problem.status]]
            for name, value in (*self.server_state.default_headers, *problem.all_headers()):
                lines.append(name + b": " + value + b"\r\n")
            lines.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
            self.transport.write(b"".join(lines) + body)
        self.transport.close()

    # Time.

    def look(self, now: float) -> None:
        """Called several times in the shortest of the limits."""
        if now < self.due or self.transport.is_closing():
            return
        if self._receiving:
            self._refuse(Problem("request_timeout"))
        elif self._unanswered:
            self._over = True
            self.transport.abort()  # it does not read, or the answer takes too long
        else:
            self._over = True
            self.transport.close()

    def shutdown(self) -> None:
        """Ends after the answer under way; at once, if there is none."""
        self._last = True
        if self._unanswered:
            self.cycle.keep_alive = False
        elif not self._receiving:
            self._over = True
            self.transport.close()

    def only_one(self, seconds: float) -> None:
        """Ends after its first answer; without a request after so many seconds. Before anything has come."""
        self._last = True
        self.due = self.loop.time() + seconds

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        super().connection_lost(exc)


def make(config: Config, state: ServerState, bounds: Bounds, on_refused: Callable[[int], None]) -> Callable[[], Any]:
    return lambda: ApiConnection(config, state, bounds, on_refused)
