"""The HTTP API of one worker, put together."""

import asyncio
import socket

from broker.api.access import Access
from broker.api.application import application
from broker.api.directory import Directory
from broker.api.front import Front
from broker.api.publishing import Publishing
from broker.api.reading import Reading
from broker.api.server import ApiServer
from broker.config.schema import Config
from broker.node import Node
from broker.protocol.names import NameRule


class Tally:
    """Counts answers in the worker's row: `counters` is its u64s, `places` says where by name."""

    def __init__(self, counters: memoryview, places: dict[str, int]) -> None:
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

    def answered(self, status: int) -> None:
        place = self._by_status.get(status)
        if place is None:
            place = self._published if status < 400 else self._refused if status < 500 else self._failed
        self._counters[place] += 1

    def unknown_key(self) -> None:
        self._counters[self._keys] += 1


class Api:
    """Inside a running loop. `start` once the worker accepts, `let_go` when its drain begins, then `stop`."""

    def __init__(self, config: Config, listener: socket.socket, node: Node, directory: Directory, tally: Tally) -> None:
        self._listener = listener
        publishing = Publishing(node, config)
        reading = Reading(node, publishing, directory)
        names = NameRule(config.server.extra_channel_characters)
        app, document = application(reading, directory, names, config.api.max_body_bytes)
        self._access = Access(config.api, tally.unknown_key)
        front = Front(
            self._access,
            publishing,
            app,  # type: ignore[arg-type]  # Litestar's ASGI types name every message
            document,
            config.api.max_body_bytes,
            tally.answered,
        )
        self._server = ApiServer(front, config, tally.answered)

    def reload(self, config: Config) -> None:
        """Other keys and hosts."""
        self._access.reload(config.api)

    async def start(self) -> None:
        await self._server.start(self._listener)

    def let_go(self) -> None:
        self._server.let_go()
        self._listener.close()

    async def stop(self, hasten: asyncio.Event) -> None:
        await self._server.stop(hasten)
