"""The admin port of one broker, served in the event loop of its main process: the supervisor, or the only worker.

From before the first worker accepts until the last one has ended, so that a start and a drain are seen.
"""

import asyncio
import socket
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from broker.admin.application import AdminApplication
from broker.admin.health import Health
from broker.api.connection import Bounds
from broker.api.server import ApiServer
from broker.config.schema import Config

# From the first byte of a request to the last of its answer. Prometheus gives up after 10 s.
REQUEST_SECONDS = 10.0
# Longer than the usual minute between two scrapes, which then need no new connection.
KEEP_ALIVE_SECONDS = 75.0


class AdminPort:
    """Inside a running loop. `listener` is its own from now on."""

    def __init__(
        self,
        config: Config,
        listener: socket.socket,
        registry: CollectorRegistry,
        health: Callable[[], Health],
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        limits = config.limits
        bounds = Bounds(
            request_seconds,
            KEEP_ALIVE_SECONDS,
            limits.max_head_bytes,
            limits.max_headers,
            config.admin.max_connections,
        )
        self._listener = listener
        self._server = ApiServer(AdminApplication(registry, health), bounds, limits.listen_backlog, lambda _: None)

    async def start(self) -> None:
        await self._server.start(self._listener)

    async def stop(self) -> None:
        """At once: an answer is given in one turn, and who has not asked by now need not."""
        now = asyncio.Event()
        now.set()
        self._server.let_go()
        await self._server.stop(now)
        self._listener.close()
