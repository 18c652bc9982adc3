"""Several workers and their engine in the test's own loop, over real Unix sockets: one broker without its processes."""

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from broker.config.schema import Config, Limits
from broker.engine.base import Engine, Sink
from broker.engine.link import LinkEngine
from broker.engine.process import EngineProcess
from broker.engine.roll import Clock
from broker.node import Node
from tests.integration.harness import Broker, open_sockets, running, wait_until


class Cluster:
    """`workers` are linked to `engine`; `links` are their ends."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.engine: EngineProcess
        self.listener: socket.socket
        self.workers: list[Broker] = []
        self.links: list[LinkEngine] = []
        self.config = Config()
        self.clock: Clock | None = None

    def start_engine(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.address)
        self.listener.listen()
        self.listener.setblocking(False)
        self.engine = EngineProcess(self.listener, self.config, self.clock)
        self.engine.start()

    def stop_engine(self) -> None:
        """What a kill does: every link ends, nothing more is said."""
        self.engine.stop()
        self.listener.close()

    async def all_linked(self) -> None:
        await wait_until(lambda: all(link.up for link in self.links), "every worker is linked")

    def make_link(self, sink: Sink) -> Engine:
        assert isinstance(sink, Node)
        link = LinkEngine(sink, self.address, len(self.links), self.config.limits)
        self.links.append(link)
        return link


@asynccontextmanager
async def several(
    count: int = 2, *, engine_limits: Limits | None = None, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Cluster]:
    """`count` workers with --dev and the engine between them."""
    sockets = open_sockets()
    cluster = Cluster("\0ws-broker-test-" + secrets.token_hex(8))
    cluster.config = Config(limits=engine_limits or Limits())
    cluster.clock = clock
    cluster.start_engine()
    try:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                worker = await stack.enter_async_context(running(engine=cluster.make_link, alone=False, **settings))
                cluster.workers.append(worker)
            await cluster.all_linked()
            yield cluster
    finally:
        cluster.stop_engine()
    assert open_sockets() == sockets
