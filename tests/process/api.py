"""The HTTP API of a broker of processes, as a back end uses it: plain blocking sockets, one request each."""

import copy
import hashlib
import json
import re
import socket
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.integration.calling import call
from tests.process.command import PATIENCE_SECONDS, Served, read_exactly, read_head
from tests.process.supervised import worker_of

NEWS = "/v1/channels/news/messages"


class Answered(NamedTuple):
    status: int
    head: str
    body: Any


def key_table(name: str, key: str) -> str:
    """Lines of a configuration for a key that may do everything."""
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    return f'[api.keys.{name}]\nsha256 = "{sha256}"\nscopes = ["publish", "read", "admin"]\n'


class Api:
    """`key` is that of --dev, unless another one is used."""

    def __init__(self, broker: Served) -> None:
        assert broker.process.stdout is not None
        for line in broker.process.stdout:
            if found := re.search(r"Bearer (\S+)' .* http://127\.0\.0\.1:(\d+)/v1/", line):
                break
        else:
            raise AssertionError("it named no API")
        self.key, self.port = found[1], int(found[2])
        self._door = copy.copy(broker)
        self._door.port = self.port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)

    def request(self, target: str, body: object = None, *headers: str, key: str | None = None, **named: Any) -> bytes:
        return call(target, body, *headers, key=key or self.key, host="localhost", **named)

    def ask(self, target: str, body: object = None, *headers: str, **named: Any) -> Answered:
        """On a connection of its own."""
        with closing(self.connect()) as client:
            client.sendall(self.request(target, body, *headers, **named))
            return answer(client)

    def worker_of(self, client: socket.socket) -> int:
        """The process that answers this connection, which has been answered once."""
        return worker_of(self._door, client)

    def client_of(self, pid: int) -> socket.socket:
        """A kept connection to that worker."""
        others = []
        try:
            while True:
                client = self.connect()
                client.sendall(self.request("/v1/openapi.json"))
                assert answer(client).status == 200
                if self.worker_of(client) == pid:
                    return client
                others.append(client)
                assert len(others) < 500, "this worker is given nobody"
        finally:
            for other in others:
                other.close()


def answer(client: socket.socket) -> Answered:
    """Raises AssertionError or OSError if the stream ends before it is whole."""
    head = read_head(client).decode()
    found = re.search(r"(?im)^content-length: (\d+)", head)
    assert found, head
    return Answered(int(head.split(" ")[1]), head, json.loads(read_exactly(client, int(found[1]))))


def write_keys(file: Path, *tables: str) -> list[str]:
    file.write_text("\n".join(tables))
    return ["--config", str(file)]
