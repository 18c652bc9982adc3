"""The admin port as a scraper and a kubelet use it: one request, one answer."""

import re
from http.client import HTTPConnection, HTTPResponse
from typing import NamedTuple

from tests.process.books import until
from tests.process.command import PATIENCE_SECONDS, Served

FLAGS = ("--admin-listen", "127.0.0.1:0")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Admin:
    """Of a broker that was given FLAGS."""

    def __init__(self, broker: Served) -> None:
        host, _, port = broker.admin_url.removeprefix("http://").rpartition(":")
        self.address = host.strip("[]"), int(port)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """On a connection of its own."""
        connection = HTTPConnection(*self.address, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            return read(connection.getresponse())
        finally:
            connection.close()

    def probe(self, path: str) -> tuple[int, str]:
        answer = self.ask(path)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        return answer.status, answer.text

    def until(self, path: str, status: int, pattern: str = "") -> str:
        """Asks until it has this status and one of its lines is this; returns the text."""
        found = (0, "")

        def holds() -> bool:
            nonlocal found
            found = self.probe(path)
            return found[0] == status and re.search(f"^(?:{pattern})$" if pattern else "", found[1], re.M) is not None

        until(holds, lambda: f"{path} is {status} and says {pattern!r}, it is {found}")
        return found[1]


def read(response: HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())
