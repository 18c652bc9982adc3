"""A small HTTP server that answers what a test tells it to: the site behind the hook, or an issuer with a key set."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request, header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]


def answer(status: int, value: object) -> Answer:
    return status, json.dumps(value).encode()


class Site:
    """`reply` is called, and awaited, for each request; what it returns is the answer. None: ends without one."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.connections = 0
        self.reply: Callable[[Asked], Awaitable[Answer | None]] = self._default
        self.value: object = {}
        self.status = 200
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/who"

    async def _default(self, asked: Asked) -> Answer | None:
        return answer(self.status, self.value)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = {
                    key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:-2])
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = Asked(method, target, headers, body)
                self.requests.append(asked)
                replied = await self.reply(asked)
                if replied is None:
                    return
                status, content, *more = replied
                extra = "".join(f"{name}: {value}\r\n" for name, value in (more[0] if more else {}).items())
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{extra}\r\n".encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running_site() -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
