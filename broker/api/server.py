"""An HTTP server in a loop that serves other things too: the API's in each worker, on a listener that all workers
share, and the admin port's in the main process.

uvicorn's protocol without uvicorn's Server: that one wants signals, logging and the loop for itself. Of the two HTTP
parsers that uvicorn knows httptools was taken: h11 is pure Python, and llhttp is as strict in what counts (tests).
"""

import asyncio
import socket
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import cast

from uvicorn.config import Config as UvicornConfig
from uvicorn.server import ServerState

from broker.api.connection import ApiConnection, Bounds, make
from broker.api.front import Application

# How often connections are looked at that have taken too long, and the Date header is renewed.
LOOK_SECONDS = 1.0
# What a connection that was taken at the very end has to begin its request: it has waited, and most have sent it.
LAST_SECONDS = 0.5


class ApiServer:
    """`on_refused` is told the status of each answer that `application` did not give."""

    def __init__(
        self, application: Application, bounds: Bounds, backlog: int, on_refused: Callable[[int], None]
    ) -> None:
        self._bounds = bounds
        self._look_seconds = min(LOOK_SECONDS, bounds.request_seconds / 4, bounds.keep_alive_seconds / 4)
        self._backlog = backlog
        self._state = ServerState()
        settings = UvicornConfig(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        settings.load()
        self._make = make(settings, self._state, self._bounds, on_refused)
        self._server: asyncio.Server | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._taking: list[asyncio.Task[None]] = []

    async def start(self, listener: socket.socket) -> None:
        """Accepts, from a listener that is the caller's to close."""
        loop = asyncio.get_running_loop()
        self._look()
        # A copy: the server closes its own, and never shuts it down, so that others go on accepting.
        self._server = await loop.create_server(self._make, sock=listener.dup(), backlog=self._backlog)

    @property
    def connections(self) -> set[ApiConnection]:
        return cast(set[ApiConnection], self._state.connections)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(self._look_seconds, self._look)
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        now = loop.time()
        for connection in list(self.connections):
            connection.look(now)

    def let_go(self, waiting: Iterable[socket.socket] = ()) -> None:
        """Accepts no more; requests under way are finished, connections without one are closed. `waiting` are taken
        all the same, for one request each.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        self._taking += [loop.create_task(self._take(one)) for one in waiting]

    async def _take(self, client: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._make_last, client)

    def _make_last(self) -> ApiConnection:
        connection: ApiConnection = self._make()
        connection.only_one(LAST_SECONDS)
        return connection

    async def stop(self, hasten: asyncio.Event) -> None:
        """After `let_go`. No longer than requests may take, or until `hasten`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._bounds.request_seconds
        await asyncio.gather(*self._taking, return_exceptions=True)  # some of whom may have gone
        # As the worker waits for its own connections: some looks at the end of a process.
        while self.connections and not hasten.is_set() and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.transport.abort()
        if self._looking is not None:
            self._looking.cancel()
        # What they leave behind is told at the next turn.
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)
