"""The HTTP API of one worker, put together."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

from broker.api.access import Access
from broker.api.application import application
from broker.api.connection import Bounds
from broker.api.directory import Directory
from broker.api.front import Front
from broker.api.publishing import Publishing
from broker.api.reading import Reading
from broker.api.server import ApiServer
from broker.config.schema import Config
from broker.node import Node
from broker.protocol.names import NameRule


class Tally:
    """Counts answers in the worker's row: `counters` is its u64s, `places` says where by name, `observe` adds a time in
    ns to the histogram that begins at a place, that of requests at `requests`.
    """

    def __init__(
        self,
        counters: memoryview,
        places: dict[str, int],
        observe: Callable[[memoryview, int, int], None],
        requests: int,
    ) -> None:
        self._observe, self._requests = observe, requests
        self._counters = counters
        self._published = places["n_api_ok"]
        self._refused = places["n_api_refused"]
        self._failed = places["n_api_failed"]
        self._by_status = {
            401: places["n_api_unauthenticated"],
            408: places["n_api_timeouts"],
            429: places["n_api_rate_limited"],
        }
        self._keys = places["n_api_unknown_keys"]
        self._crowded = places["n_api_crowded"]

    def answered(self, status: int) -> None:
        place = self._by_status.get(status)
        if place is None:
            place = self._published if status < 400 else self._refused if status < 500 else self._failed
        self._counters[place] += 1

    def took(self, ns: int) -> None:
        self._observe(self._counters, self._requests, ns)

    def unknown_key(self) -> None:
        self._counters[self._keys] += 1

    def crowded(self) -> None:
        self._counters[self._crowded] += 1


class Api:
    """Inside a running loop. `start` once the worker accepts, `let_go` when its drain begins, then `stop`."""

    def __init__(self, config: Config, listener: socket.socket, node: Node, directory: Directory, tally: Tally) -> None:
        self._listener = listener
        self._listener.setblocking(False)  # one that was passed may be anything
        self._backlog = config.limits.listen_backlog
        publishing = self._publishing = Publishing(node, config, tally.crowded)
        reading = Reading(node, publishing, directory)
        names = NameRule(config.server.extra_channel_characters)
        app, document = application(reading, directory, names, config.api.max_body_bytes)
        self._access = Access(config.api, tally.unknown_key)
        front = self._front = Front(
            self._access,
            publishing,
            app,  # type: ignore[arg-type]  # Litestar's ASGI types name every message
            document,
            config.api.max_body_bytes,
            tally.answered,
            tally.took,
        )
        api, limits = config.api, config.limits
        bounds = Bounds(
            api.request_seconds,
            api.keep_alive_seconds,
            limits.max_head_bytes,
            limits.max_headers,
            api.max_connections,
        )
        self._server = ApiServer(front, bounds, self._backlog, self._refused)
        self._tally = tally
        front.log_requests(config.log.access)

    async def start(self) -> None:
        await self._server.start(self._listener)

    def waiting(self) -> int:
        """Messages that wait for the engine."""
        return self._publishing.waiting

    def reload(self, config: Config) -> None:
        """What broker.config.reload lists as NOW, of `config.api` and of the log."""
        self._access.reload(config.api)
        self._front.log_requests(config.log.access)

    def _refused(self, status: int) -> None:
        self._tally.answered(status)
        if self._front.requests is not None:
            self._front.requests.refused(status)

    def let_go(self, take: bool) -> None:
        """`take`: nobody else serves what waits in the listener, and whoever closes it last resets that."""
        self._server.let_go(self._waiting() if take else ())
        self._listener.close()

    def _waiting(self) -> Iterator[socket.socket]:
        with suppress(OSError):  # none is left, or there is no room for it
            for _ in range(self._backlog):
                client, _ = self._listener.accept()
                client.setblocking(False)
                yield client

    async def stop(self, hasten: asyncio.Event) -> None:
        await self._server.stop(hasten)
