"""One worker, put together: configuration to objects, run, drain. No logic of its own.

Called by the command line, or by what a supervisor starts, with listening sockets. Returns when it was told to end
(SIGTERM, SIGINT) and every connection has been closed, or the time for that is over.
"""

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType

import msgspec

from broker import log as logs
from broker.api.worker import Api, Tally
from broker.auth.origin import OriginRule
from broker.auth.permissions import Permissions
from broker.config.schema import Config
from broker.engine.base import Engine, Holdings, Sink
from broker.engine.history import History
from broker.engine.interest import SWEEP_SECONDS
from broker.engine.memory import MemoryEngine
from broker.engine.snapshot import open_history, save_history
from broker.gateway.addresses import Addresses
from broker.gateway.admission import Admission
from broker.gateway.authority import Gatekeeper, Hook, Tokens
from broker.gateway.commands import Commands
from broker.gateway.control import Control
from broker.gateway.drain import Drain
from broker.gateway.expiry import TICK_SECONDS, Expiry
from broker.gateway.gateway import Gateway
from broker.gateway.identifying import Identifying
from broker.gateway.identities import Identities
from broker.gateway.opening import Authority, Opening
from broker.gateway.refusals import Refusals, native_closes, served
from broker.gateway.sessionlog import session_log
from broker.gauges import Gauges
from broker.native import _counters
from broker.native._histogram import observe
from broker.native._hub import Hub
from broker.native._reactor import Reactor
from broker.native.counting import Count
from broker.node import Node
from broker.protocol.events import Limits as HelloLimits
from broker.protocol.names import NameRule
from broker.protocol.offer import OfferRules
from broker.web.pages import load_pages

log = logs.get_logger(__name__, limited=False)

# File descriptors kept for everything that is not a client: listeners, poller, logs, links.
RESERVED_FDS = 64
_SESSIONS = _counters.NAMES.index("g_sessions")
_CONNECTIONS = _counters.NAMES.index("g_connections")
_REFUSED = _counters.NAMES.index("g_refused")
DRAIN_FLUSH_SECONDS = 0.5
DRAIN_POLL_SECONDS = 0.02
# How often the event loop says that it turns, and looks after the listeners of others.
BEAT_SECONDS = 0.05
# Batches of 64 taken from one such listener in one go: a full accept queue of 4096 is shared out in some 0.3 s.
BEAT_BATCHES = 4
# Handshakes that were accepted when a successor took over are finished, if they are quick; idle ones get 503.
SUCCESSION_SECONDS = 1.0
# What clients have to take a Close that was hastened, and to answer it.
HASTENED_SECONDS = 1.0


class Worker:
    """Built inside a running loop; `start` (or `begin`, `accept`) and `drain`. `engine` is given the node, its sink.

    One of several is given `counters`, a row of the shared page, `taken`, how many connections all of them have, the
    listeners of its `siblings`, and `beat`: called every 50 ms, it returns the listeners of siblings to take
    connections from, and sets `succeeded` if somebody else serves the own ones too.
    """

    def __init__(
        self,
        config: Config,
        listeners: Sequence[socket.socket],
        *,
        authority: Authority | None = None,
        identities: Identities | None = None,
        tokens: Tokens | None = None,
        hook: Hook | None = None,
        engine: Callable[[Sink], Engine] | None = None,
        counters: bytearray | memoryview | None = None,
        taken: Callable[[], int] | None = None,
        siblings: Sequence[socket.socket] = (),
        beat: "Callable[[Worker], Iterable[int]] | None" = None,
        api: socket.socket | None = None,
        pattern_places: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        loop = asyncio.get_running_loop()
        limits = config.limits
        pages = load_pages(dev=config.server.dev)
        rules = OfferRules(
            NameRule(config.server.extra_channel_characters),
            limits.max_offer_bytes,
            limits.max_channels_per_connection,
            config.auth.allow_tokens_in_urls_that_get_logged,
        )
        self._config = config
        self._loop = loop
        self._listeners = listeners
        self._siblings = siblings
        self._beat = beat
        self._next_beat: asyncio.TimerHandle | None = None
        self.draining = False
        self.succeeded = False
        self.counters = bytearray(8 * _counters.SIZE) if counters is None else counters
        self.gateway = Gateway(
            {path.encode(): served(page.body, page.headers, page.etag) for path, page in pages.items()},
            limits.handshake_seconds,
            config.drain.closes_per_second,
        )
        self.hub = Hub(self.counters, limits.send_queue_bytes, limits.send_queue_messages, limits.memory_bytes)
        self.max_connections = max_connections(limits.max_connections, RESERVED_FDS + len(siblings))
        settings = {**msgspec.structs.asdict(limits), "max_connections": self.max_connections}
        self.reactor = Reactor(
            self.hub,
            self.gateway,
            native_closes(limits),
            loop.call_soon,
            text_ping=config.server.text_ping,
            proxy_protocol=config.server.proxy_protocol,
            **settings,
        )
        self.history: History | None = None
        if engine is None:
            self.history = history = open_history(config)
            engine = partial(MemoryEngine, limits=limits, history=history)
        self.node = Node(
            self.reactor,
            engine,
            config.channels,
            limits.max_json_depth,
            most_read_bytes=limits.send_queue_bytes // 4,
            history_bytes=limits.history_bytes,
            interest_linger_seconds=limits.interest_linger_seconds,
            join_seconds=limits.handshake_seconds,
            pattern_places=pattern_places,
            count=Count(self.counters),
        )
        self.node.on_cut = self.gateway.cut
        self._ticking: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._expiring: asyncio.TimerHandle | None = None
        self.reactor.direct = self.node.direct
        self.node.on_hole = lambda conns: self.gateway.end(conns, "service_restart")
        self.node.on_unknown = lambda conns: self.gateway.end(conns, "outcome_unknown")
        self.control = Control(
            self.reactor, self.hub, self.node, self.gateway.close, limits.max_channels_per_connection
        )
        self.node.on_question = self.control.answer
        self.api: Api | None = None
        if api is not None:
            places = {name: at for at, name in enumerate(_counters.NAMES)}
            row = memoryview(self.counters).cast("B").cast("Q")
            self.api = Api(
                config,
                api,
                self.node,
                self.control,
                Tally(row, places, observe, _counters.HISTOGRAMS["api_request_ns"]),
            )
        self.gateway.reactor = self.reactor
        origins = _origins(config)
        self.permissions = Permissions(config.channels, open=open_to_all(config))
        self._identities = identities
        if identities is not None:
            tokens, hook = identities.tokens, identities.hook
        self.gatekeeper = Gatekeeper(self.permissions, origins, config.auth, tokens, hook)
        self.expiry = Expiry(self.reactor, config.auth)
        table = memoryview(self.counters).cast("B").cast("Q")
        self.gateway.admission = Admission(
            self.reactor,
            limits,
            Addresses(config.server.trusted_proxies, config.server.client_address),
            table,
            taken or (lambda: table[_CONNECTIONS] - table[_REFUSED]),
        )
        self.gateway.opening = Opening(
            self.reactor,
            self.node,
            authority or self.gatekeeper,
            origins,
            _refusals(config),
            rules,
            HelloLimits(limits.max_message_bytes, limits.max_channels_per_connection),
            limits.ping_seconds,
            limits.presence_info_bytes,
            self.permissions,
            self.expiry,
        )
        identifying = Identifying(self.reactor, self.node, self.gatekeeper, self.gateway.opening, self.expiry)
        self.gateway.commands = Commands(self.reactor, self.node, rules, self.gatekeeper, identifying)

        self.gateway.opening.on_refused = self.gateway.admission.failed
        self.gateway.opening.sessions = session_log(config.log, self.reactor)
        has_holdings = self.node.holdings() is not None
        self._gauges = Gauges(
            table,
            self.max_connections,
            (lambda: self.node.holdings() or Holdings()) if has_holdings else None,
            None if self.api is None else self.api.waiting,
        )

    def start(self) -> None:
        self.begin()
        self.accept()

    def begin(self) -> None:
        """Everything but accepting: a worker whose engine cannot be reached yet would turn its clients away."""
        self.node.start()
        self._loop.add_reader(self.reactor.fileno(), self.reactor.turn)
        self._tick()
        self._expire()

    def accept(self) -> None:
        for listener in self._listeners:
            self.reactor.listen(listener.fileno(), self._config.limits.notsent_lowat_bytes)
        if self._beat is not None:
            self._on_beat(self._beat)

    async def reload(self, config: Config) -> None:
        """Puts in force what a process that runs can change, the keys NOW of broker.config.reload; `config` holds all
        others as they are. Raises ConfigError, and has changed nothing then: what may fail is made before anything of
        it is used.
        """
        if self._identities is not None:
            await self._identities.renew(config, self.gatekeeper.use)
        self._config = config
        self.gateway.closes_per_second = config.drain.closes_per_second
        origins = _origins(config)
        self.permissions.reload(config.channels, open=open_to_all(config))
        self.gatekeeper.reload(origins, config.auth)
        self.expiry.auth = config.auth
        self.gateway.opening.reload(origins, _refusals(config))
        self.gateway.opening.sessions = session_log(config.log, self.reactor)
        if self.api is not None:
            self.api.reload(config)

    def _tick(self) -> None:
        now = self._loop.time()
        if self._tick_due:
            self._gauges.tick(now - self._tick_due)
        self._tick_due = now + SWEEP_SECONDS
        self._ticking = self._loop.call_at(self._tick_due, self._tick)
        self.node.interests.sweep()
        logs.tell_suppressed()

    def _expire(self) -> None:
        self._expiring = self._loop.call_later(TICK_SECONDS, self._expire)
        self.expiry.tick()

    def _on_beat(self, beat: "Callable[[Worker], Iterable[int]]") -> None:
        self._next_beat = self._loop.call_later(BEAT_SECONDS, self._on_beat, beat)
        for listener in beat(self):
            self._take_from(listener, BEAT_BATCHES)

    def _take_from(self, listener: int, batches: int) -> None:
        while batches and self.reactor.accept_from(listener):
            batches -= 1

    def _let_go(self) -> None:
        """Closes every listener. What waits in them by now is taken first, unless a successor takes it."""
        if self._beat is not None:
            self._beat(self)  # a successor may have come since the last one
        self.draining = True
        if self.api is not None:
            self.api.let_go(take=not self.succeeded)
        self.reactor.leave_accepting(False, when_full=False)
        if not self.succeeded:
            # Whoever closes a listener last resets what waits in it.
            for listener in self._siblings:
                self._take_from(listener.fileno(), self._config.limits.listen_backlog)
        self.reactor.stop_accepting(take=not self.succeeded)
        for listener in (*self._listeners, *self._siblings):
            listener.close()

    @property
    def full(self) -> bool:
        return self.reactor.connections >= self.max_connections

    @property
    def _only_sessions(self) -> bool:
        return self.reactor.connections <= memoryview(self.counters).cast("B").cast("Q")[_SESSIONS]

    async def drain(self, hasten: asyncio.Event, *, delay: bool = True) -> None:
        """Ends this worker. Accepts for drain.delay_seconds more (not without `delay`: somebody else has waited), then
        tells everybody to go, over drain.window_seconds or all at once, and waits until all is written and answered or
        the close deadlines have passed. `hasten` cuts short whatever is waited for.
        """
        settings = self._config.drain
        if delay and settings.delay_seconds:
            await _waited(hasten, settings.delay_seconds)
        begun = self._loop.time()
        log.info("drain begins", connections=self.reactor.connections, window_seconds=settings.window_seconds)
        self._let_go()
        until = self._loop.time() + SUCCESSION_SECONDS
        while self.succeeded and not self._only_sessions and not hasten.is_set() and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        if settings.window_seconds and not hasten.is_set():
            await Drain(
                self.reactor,
                settings,
                hasten,
                clock=self._loop.time,
                sleep=lambda seconds: _waited(hasten, seconds),
            ).run()
        else:
            await self._flushed(hasten)
        limits = self._config.limits
        seconds = limits.close_seconds + limits.linger_seconds + 1
        if hasten.is_set():
            seconds, hasten = HASTENED_SECONDS, asyncio.Event()  # their Close has yet to be written
        self.gateway.close_all("going_away")
        until = self._loop.time() + seconds
        # A look 50 times a second, for some seconds at the end of a process: an event for it would burden every close.
        while self.reactor.connections and not hasten.is_set() and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        if self.api is not None:
            await self.api.stop(hasten)
        if self._next_beat is not None:
            self._next_beat.cancel()
        seconds = round(self._loop.time() - begun, 3)
        log.info("drain ended", seconds=seconds, cut=self.reactor.connections, hastened=hasten.is_set())
        self.gateway.cancel_all()
        for timer in (self._ticking, self._expiring):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self.reactor.fileno())
        self.reactor.destroy()
        await self.node.stop()  # after the last session has told it that it is over
        if self.history is not None:
            save_history(self._config, self.history)

    async def _flushed(self, hasten: asyncio.Event) -> None:
        """A Close takes the place of what is queued: everything that readers can take goes first. Readers that are not
        blocked are through in a few turns; the bound is for publishers that go on.
        """
        until = self._loop.time() + DRAIN_FLUSH_SECONDS
        while not self.reactor.settled and not hasten.is_set() and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0)


def open_to_all(config: Config) -> bool:
    """--dev as long as nobody can say who he is: everybody may do everything."""
    return config.server.dev and not config.auth.keys and not config.hook.url


def _origins(config: Config) -> OriginRule:
    server = config.server
    return OriginRule(server.origins, dev=server.dev, allow_absent=server.allow_absent_origin)


def _refusals(config: Config) -> Refusals:
    limits = config.limits
    return Refusals(
        config.server.refusal,
        limits.refusals_per_address_per_minute,
        limits.refusal_hold_min_seconds,
        limits.refusal_hold_max_seconds,
    )


async def _waited(event: asyncio.Event, seconds: float) -> None:
    """Until `event`, but no longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def _first(wanted: asyncio.Event, other: asyncio.Event) -> bool:
    """Waits for one of the two; whether only `wanted` has come."""
    tasks = [asyncio.ensure_future(event.wait()) for event in (wanted, other)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    return not other.is_set()


def max_connections(configured: int, reserved: int = RESERVED_FDS) -> int:
    """What the limit of file descriptors leaves, which is raised as far as the system lets it; or less, if
    configured.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1_048_576
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, hard - reserved)
    return min(configured, possible) if configured else possible


async def serve(
    config: Config,
    listeners: Sequence[socket.socket],
    ready: Callable[[], None],
    *,
    on_stopping: Callable[[], None] = lambda: None,
    on_reload: Callable[[Worker], Awaitable[None]] | None = None,
    delay: bool = True,
    engine: Callable[[Sink], Engine] | None = None,
    counters: bytearray | memoryview | None = None,
    taken: Callable[[], int] | None = None,
    siblings: Sequence[socket.socket] = (),
    beat: Callable[[Worker], Iterable[int]] | None = None,
    api: socket.socket | None = None,
    pattern_places: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends at once what the first is still waiting for.

    `on_stopping` is called before anything else happens: nobody shall be sent here any more. `on_reload` is called for
    SIGHUP, once for all that came meanwhile, and never together with itself or with the end. A supervisor that has let
    drain.delay_seconds pass before it sent the signal says so with `delay` false.
    """
    loop = asyncio.get_running_loop()
    stop, hasten, renew = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def handle_stop() -> None:
        (hasten if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle_stop)
    if on_reload is not None:
        loop.add_signal_handler(signal.SIGHUP, renew.set)
    counters = bytearray(8 * _counters.SIZE) if counters is None else counters
    count = Count(counters)
    logs.count_suppressed(partial(count, "n_log_suppressed"))
    identities = Identities(config, count)
    await identities.start()
    worker = Worker(
        config,
        listeners,
        identities=identities,
        engine=engine,
        counters=counters,
        taken=taken,
        siblings=siblings,
        beat=beat,
        api=api,
        pattern_places=pattern_places,
    )
    worker.begin()
    usable, stopped = asyncio.ensure_future(worker.node.usable()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((usable, stopped), return_when=asyncio.FIRST_COMPLETED)
    usable.cancel()
    if not stop.is_set():
        worker.accept()
        if worker.api is not None:
            await worker.api.start()
    # What exists now lives as long as the process: the collector need not walk it again.
    gc.collect()
    gc.freeze()
    if not stop.is_set():
        ready()
    while on_reload is not None and await _first(renew, stop):
        renew.clear()
        await on_reload(worker)
    await stopped
    on_stopping()
    await worker.drain(hasten, delay=delay)
    await identities.stop()
