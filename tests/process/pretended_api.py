"""An HTTP API that answers what a test tells it to: for what a real broker says only when it is in trouble."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

KEY = "wsb_of-a-test"


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    authorization: str
    body: Any


class Reply(NamedTuple):
    """`body` bytes go as they are. `status` 0: the connection is cut instead."""

    status: int
    body: Any
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def problem(status: int, code: str, detail: str, *headers: tuple[str, str]) -> Reply:
    body = {"title": code, "status": status, "code": code, "detail": detail}
    return Reply(status, body, "application/problem+json", headers)


def published(asked: Asked) -> Reply:
    """What a broker answers to any publish."""
    results = [{"channel": one["channel"], "position": None, "subscriptions": 0} for one in messages(asked)]
    return Reply(200, {"results": results} if isinstance(asked.body, list) else results[0])


def messages(asked: Asked) -> list[dict[str, Any]]:
    return asked.body if isinstance(asked.body, list) else [asked.body]


class PretendedApi:
    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []

    @property
    def texts(self) -> list[str]:
        return [one["text"] for asked in self.asked for one in messages(asked)]

    @property
    def environment(self) -> dict[str, str]:
        return {"WSBROKER_API_URL": self.url, "WSBROKER_API_KEY": KEY}


@contextmanager
def pretending(answer: Callable[[Asked], Reply] = published) -> Iterator[PretendedApi]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(
                self.command, self.path, self.headers.get("Authorization", ""), json.loads(body) if body else None
            )
            api.asked.append(asked)
            reply = answer(asked)
            if not reply.status:
                self.close_connection = True
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in (("Content-Type", reply.content_type), *reply.headers):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            """Nothing: the test looks at what was asked."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = PretendedApi(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
