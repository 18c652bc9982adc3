"""One worker, put together: configuration to objects, run, drain. No logic of its own.

Called by the command line with listening sockets. Returns the exit status when it was told to end (SIGTERM, SIGINT)
and every connection has been closed, or the time for that is over.
"""

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable, Sequence

import msgspec
import uvloop

from broker.auth.origin import OriginRule
from broker.config.schema import Config
from broker.engine.base import Engine, Sink
from broker.engine.history import History
from broker.engine.interest import SWEEP_SECONDS
from broker.engine.memory import MemoryEngine
from broker.engine.snapshot import open_history, save_history
from broker.gateway.commands import Commands
from broker.gateway.gateway import Gateway
from broker.gateway.opening import Authority, Everybody, Opening
from broker.gateway.refusals import Refusals, native_closes, response
from broker.native import _counters
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.node import Node
from broker.protocol.events import Limits as HelloLimits
from broker.protocol.names import NameRule
from broker.protocol.offer import OfferRules
from broker.web.pages import load_pages

# File descriptors kept for everything that is not a client: listeners, poller, logs, links.
RESERVED_FDS = 64
DRAIN_FLUSH_SECONDS = 0.5
DRAIN_POLL_SECONDS = 0.02


class Worker:
    """Built inside a running loop; `start` accepts, `drain` ends. `engine` is given the node, its sink."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[socket.socket],
        *,
        authority: Authority | None = None,
        engine: Callable[[Sink], Engine] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        limits = config.limits
        pages = load_pages() if config.server.dev else {}
        rules = OfferRules(
            NameRule(config.server.extra_channel_characters), limits.max_offer_bytes, limits.max_channels_per_connection
        )
        self._config = config
        self._loop = loop
        self._listeners = listeners
        self.counters = bytearray(8 * _counters.SIZE)
        self.gateway = Gateway(
            {path.encode(): response(200, page.body, page.headers) for path, page in pages.items()},
            limits.handshake_seconds,
        )
        self.hub = Hub(self.counters, limits.send_queue_bytes, limits.send_queue_messages, limits.memory_bytes)
        settings = {**msgspec.structs.asdict(limits), "max_connections": max_connections(limits.max_connections)}
        self.reactor = Reactor(
            self.hub,
            self.gateway,
            native_closes(),
            loop.call_soon,
            text_ping=config.server.text_ping,
            **settings,
        )
        self.history: History | None = None
        if engine is None:
            self.history = history = open_history(config)
            engine = lambda sink: MemoryEngine(sink, history)  # noqa: E731
        self.node = Node(
            self.reactor,
            engine,
            config.channels,
            limits.max_json_depth,
            most_read_bytes=limits.send_queue_bytes // 4,
            interest_linger_seconds=limits.interest_linger_seconds,
            join_seconds=limits.handshake_seconds,
        )
        self.node.on_cut = self.gateway.cut
        self._ticking: asyncio.TimerHandle | None = None
        self.reactor.direct = self.node.direct
        self.gateway.reactor = self.reactor
        self.gateway.commands = Commands(self.reactor, self.node, rules)
        self.gateway.opening = Opening(
            self.reactor,
            self.node,
            authority or Everybody(),
            OriginRule(config.server.origins, dev=config.server.dev, allow_absent=config.server.allow_absent_origin),
            Refusals(
                config.server.refusal,
                limits.refusals_per_address_per_minute,
                limits.refusal_hold_min_seconds,
                limits.refusal_hold_max_seconds,
            ),
            rules,
            HelloLimits(limits.max_message_bytes, limits.max_channels_per_connection),
            limits.ping_seconds,
        )

    def start(self) -> None:
        self._loop.add_reader(self.reactor.fileno(), self.reactor.turn)
        for listener in self._listeners:
            self.reactor.listen(listener.fileno(), self._config.limits.notsent_lowat_bytes)
        self._tick()

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(SWEEP_SECONDS, self._tick)
        self.node.interests.sweep()

    async def drain(self, hasten: asyncio.Event) -> None:
        """Stops accepting, delivers what was published, closes every session with 1001, waits until all is written or
        the close deadlines have passed.
        """
        self.reactor.stop_accepting()
        for listener in self._listeners:
            listener.close()
        until = self._loop.time() + DRAIN_FLUSH_SECONDS
        # A Close takes the place of what is queued: everything that readers can take goes first. Readers that are not
        # blocked are through in a few turns; the bound is for publishers that go on.
        while not self.reactor.settled and not hasten.is_set() and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self.gateway.close_all("going_away")
        limits = self._config.limits
        until = self._loop.time() + limits.close_seconds + limits.linger_seconds + 1
        # A look 50 times a second, for some seconds at the end of a process: an event for it would burden every close.
        while self.reactor.connections and not hasten.is_set() and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        self.gateway.cancel_all()
        if self._ticking is not None:
            self._ticking.cancel()
        self._loop.remove_reader(self.reactor.fileno())
        self.reactor.destroy()
        if self.history is not None:
            save_history(self._config, self.history)


def max_connections(configured: int) -> int:
    """What the limit of file descriptors leaves, which is raised as far as the system lets it; or less, if
    configured.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1_048_576
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, hard - RESERVED_FDS)
    return min(configured, possible) if configured else possible


async def serve(config: Config, listeners: Sequence[socket.socket], ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends at once what the first is still waiting for."""
    loop = asyncio.get_running_loop()
    stop, hasten = asyncio.Event(), asyncio.Event()

    def handle_stop() -> None:
        (hasten if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle_stop)
    worker = Worker(config, listeners)
    worker.start()
    # What exists now lives as long as the process: the collector need not walk it again.
    gc.collect()
    gc.freeze()
    ready()
    await stop.wait()
    await worker.drain(hasten)


def run(config: Config, listeners: Sequence[socket.socket], ready: Callable[[], None]) -> None:
    uvloop.run(serve(config, listeners, ready))
