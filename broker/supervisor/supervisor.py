"""The supervisor: the main process of a broker with several workers.

It opens nothing after the start and serves no client but those of the admin port: it keeps one engine and N workers
alive, replaces those that are stuck, puts new workers in the place of old ones on SIGHUP, and ends them all on SIGTERM
or SIGINT. Called by the command line, with listening sockets. What it decides by is in rules.py, what it does with
processes in processes.py.
"""

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from broker import log as logs
from broker.admin import health
from broker.admin.port import AdminPort
from broker.config.errors import ConfigError
from broker.config.reload import Waits, in_force
from broker.config.schema import Config
from broker.metrics.collector import registry
from broker.metrics.facts import Facts, ProcessKind
from broker.metrics.page import ENGINE, Page, worker_slot
from broker.metrics.patterns import PatternPlaces
from broker.supervisor import telling
from broker.supervisor.notify import Notifier
from broker.supervisor.processes import Child, CrashLoopError, Keeper, all_over, all_ready, start_child
from broker.supervisor.rules import Judge, Restarts
from broker.supervisor.spec import ChildSpec

log = logs.get_logger(__name__, limited=False)

# Between two looks at the heartbeats; an eighth of stuck_seconds if that is less, or every look would seem late.
TICK_SECONDS = 0.25
STATUS_SECONDS = 5.0
# What one look at a drain asks systemd for: longer than until the next look, short enough that a hang shows.
EXTEND_SECONDS = 10.0
# From the second signal to the end by force: a hastened worker has nothing to wait for.
HASTEN_SECONDS = 3.0
# An engine has nobody left to serve when it is told to end.
ENGINE_END_SECONDS = 10.0
LINK_BACKLOG = 512


class Supervisor:
    """Built inside a running loop; `run` is its whole life."""

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        listeners: Sequence[socket.socket],
        workers: int,
        notifier: Notifier,
        *,
        api: socket.socket | None = None,
        admin: socket.socket | None = None,
    ) -> None:
        self._config = config
        self._load = reload
        self._listeners = listeners
        self._api = api
        self._fds = tuple(listener.fileno() for listener in listeners)
        self._pollers = share_out(len(listeners), workers)
        self._count = workers
        self._notifier = notifier
        self.page = Page.new(workers)
        self.facts = Facts(config, PatternPlaces(), self._engine_up)
        # Nobody can be there first, or guess it.
        self._link_address = f"\0ws-broker-{secrets.token_hex(16)}"
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.bind(self._link_address)
        self._link.listen(LINK_BACKLOG)
        self._engine: list[Keeper] = []
        self._workers: list[Keeper] = []
        self._former: list[Keeper] = []  # of the generation before, draining; or of one that failed to come up
        self._generation = 0
        self._announced = False
        self._judge = Judge(config.supervisor.stuck_seconds)
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._hasten = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())
        self._admin = None if admin is None else AdminPort(config, admin, registry(self.page, self.facts), self._health)

    async def run(self, announce: Callable[[], None]) -> str | None:
        """Until a signal: None. Or until a crash loop: the line that says so."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._handle_stop)
        loop.add_signal_handler(signal.SIGINT, self._handle_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        reason = None
        if self._admin is not None:
            await self._admin.start()
        try:
            await self._serve(announce)
        except CrashLoopError as error:
            reason = str(error)
            log.critical("broker gives up", reason=reason)
        await self._end()
        if self._admin is not None:
            await self._admin.stop()
        return reason

    def _handle_stop(self) -> None:
        (self._hasten if self._stop.is_set() else self._stop).set()

    async def _serve(self, announce: Callable[[], None]) -> None:
        self._engine = [self._keeper("engine", self._config, self._engine_spec)]
        if not await self._until(all_ready(self._engine)):
            return
        self._workers = self._start_workers(self._config)
        if not await self._until(all_ready(self._workers)):
            return
        announce()
        self._announced = True
        self._notifier.ready(self._status())
        while await self._until(self._reload.wait()):
            self._reload.clear()
            await self._renew()

    # Starting.

    def _keeper(self, name: str, config: Config, make_spec: Callable[[Config, int], ChildSpec]) -> Keeper:
        rules = config.supervisor

        process: ProcessKind = "engine" if name == "engine" else "worker"

        def started(make: Callable[[int], ChildSpec]) -> Child:
            child = start_child(make)
            self.facts.process_started(process)
            return child

        def over(child: Child, untold: bool) -> None:
            self.page.retire(child.slot)
            if untold:
                self.facts.process_died(process, child.reason)

        return Keeper(
            name,
            lambda: started(lambda ready_fd: make_spec(config, ready_fd)),
            Restarts(rules.most_early_deaths, rules.early_death_seconds),
            rules.start_seconds,
            over,
        )

    def _start_workers(self, config: Config) -> list[Keeper]:
        return [
            self._keeper(f"worker {index}", config, self._worker_spec(index, self._generation))
            for index in range(self._count)
        ]

    def _engine_spec(self, config: Config, ready_fd: int) -> ChildSpec:
        return ChildSpec(
            role="engine",
            config=config,
            supervisor_pid=os.getpid(),
            page_fd=self.page.fd,
            slot=ENGINE,
            workers=self._count,
            ready_fd=ready_fd,
            link_address=self._link_address,
            link_fd=self._link.fileno(),
        )

    def _worker_spec(self, index: int, generation: int) -> Callable[[Config, int], ChildSpec]:
        def make(config: Config, ready_fd: int) -> ChildSpec:
            return ChildSpec(
                role="worker",
                config=config,
                supervisor_pid=os.getpid(),
                page_fd=self.page.fd,
                slot=worker_slot(index, generation),
                workers=self._count,
                ready_fd=ready_fd,
                link_address=self._link_address,
                index=index,
                generation=generation,
                listeners=self._fds,
                pollers=self._pollers,
                api_fd=-1 if self._api is None else self._api.fileno(),
                pattern_places=dict(self.facts.patterns.assign(config.channels)),
            )

        return make

    async def _until(self, wanted: Awaitable[object]) -> bool:
        """Waits for `wanted`; False = told to stop first. Raises the CrashLoopError of a child that is needed."""
        waiting = asyncio.ensure_future(wanted)
        stop = asyncio.ensure_future(self._stop.wait())
        needed = [self._watching, *(keeper.task for keeper in (*self._engine, *self._workers))]
        try:
            await asyncio.wait({waiting, stop, *needed}, return_when=asyncio.FIRST_COMPLETED)
            for task in needed:
                if task.done():
                    task.result()
            return waiting.done() and not stop.done()
        finally:
            waiting.cancel()
            stop.cancel()

    # Renewing: new workers accept before the old ones stop.

    async def _renew(self) -> None:
        self._notifier.reloading()
        try:
            config, waits = in_force(self._config, self._load(), alone=False)
        except ConfigError as error:
            self.facts.reloaded(None)
            for problem in error.problems:
                log.error("reload refused", problem=problem)
        else:
            await self._replace(config, waits)
        self._notifier.ready(self._status())

    async def _replace(self, config: Config, waits: Sequence[Waits]) -> None:
        self._generation ^= 1
        self._former = self._start_workers(config)
        failed = asyncio.wait({keeper.task for keeper in self._former}, return_when=asyncio.FIRST_COMPLETED)
        if not await self._until(_first(all_ready(self._former), failed)):
            return
        broken = [keeper.task.exception() for keeper in self._former if keeper.task.done()]
        if broken:
            self.facts.reloaded(None)
            log.error("reload refused", problem=str(broken[0]))
            self._generation ^= 1
        else:
            self._workers, self._former = self._former, self._workers
            logs.use(config.log)
            telling.reloaded(self._config, config, waits, api_closed=self._api is None)
            self._config = config
            self.facts.reloaded(config)
            self._judge = Judge(config.supervisor.stuck_seconds)
        for keeper in self._former:
            keeper.retire()
        if await self._until(all_over(self._former)):
            self._former = []

    # Watching.

    def _children(self) -> Iterable[Child]:
        return [
            keeper.child
            for keeper in (*self._engine, *self._workers, *self._former)
            if keeper.child is not None and keeper.child.ready_since is not None
        ]

    async def _watch(self) -> None:
        last_status = time.monotonic()
        told = ""
        while True:
            rules = self._config.supervisor
            tick = min(TICK_SECONDS, rules.stuck_seconds / 8)
            await asyncio.sleep(tick)
            now = time.monotonic()
            logs.tell_suppressed()
            children = {child.slot: child for child in self._children()}
            beats = {slot: self._heard_of(child) for slot, child in children.items()}
            stuck = self._judge.stuck(now, beats)
            if stuck is not None:
                child = children[stuck]
                silent = round(now - beats[stuck], 1)
                log.error("child is stuck and is killed", child=child.name, child_pid=child.pid, silent_seconds=silent)
                child.stuck = True
                child.signal(signal.SIGKILL)
            if all(now - beat < rules.stuck_seconds for beat in beats.values()):
                self._notifier.watchdog_if_due(now, tick)
            if self._notifier.active and now - last_status >= STATUS_SECONDS and not self._stop.is_set():
                last_status = now
                if told != (told := self._status()):
                    self._notifier.status(told)

    def _engine_up(self) -> bool:
        return any(keeper.child is not None and keeper.child.ready.done() for keeper in self._engine)

    def _heard_of(self, child: Child) -> float:
        return max(self.page.row(child.slot).heartbeat_ns / 1e9, child.ready_since or 0.0)

    def _status(self) -> str:
        accepting = sum(keeper.child is not None and keeper.child.ready.done() for keeper in self._workers)
        counts = " ".join(map(str, self.page.connections()))
        return f"{accepting} of {self._count} workers accept; connections of each: {counts}"

    # Asked by the admin port.

    def _health(self) -> health.Health:
        now = time.monotonic()
        rules, limits = self._config.supervisor, self._config.limits
        return health.Health(
            self._count,
            [self._process(keeper, now) for keeper in self._workers if not keeper.over],
            [self._process(keeper, now) for keeper in self._former if not keeper.over],
            [self._process(keeper, now) for keeper in self._engine if not keeper.over],
            draining=self._stop.is_set(),
            connections=self.page.taken(),
            most_connections=limits.max_connections_total,
            stuck_seconds=rules.stuck_seconds,
            start_seconds=rules.start_seconds,
        )

    def _process(self, keeper: Keeper, now: float) -> health.Process:
        child = keeper.child
        if child is None or child.ready_since is None:
            who = keeper if child is None or keeper.was_stuck else child  # it was another process that was stuck
            return health.Process(str(who), False, now - keeper.waits_since, stuck=keeper.was_stuck)
        row = self.page.row(child.slot)
        silent = now - self._heard_of(child)
        return health.Process(str(child), True, silent, stuck=child.stuck, full=row.paused, linked=row.link_up)

    # Ending.

    async def _end(self) -> None:
        self._stop.set()
        self.facts.draining = True
        telling.stopping()
        self._notifier.stopping("closing connections")
        if self._announced:  # otherwise nobody sends clients here
            await self._delay(self._config.drain.delay_seconds)
        for listener in (*self._listeners, *((self._api,) if self._api is not None else ())):
            listener.close()
        workers = [*self._workers, *self._former]
        await self._end_of(workers)
        engine_due = asyncio.get_running_loop().call_later(ENGINE_END_SECONDS, _kill, self._engine)
        await self._end_of(self._engine)
        engine_due.cancel()
        self._watching.cancel()
        self._link.close()

    async def _delay(self, seconds: float) -> None:
        """Workers go on accepting while whoever distributes clients learns that this broker ends."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._hasten.is_set():
            self._notifier.extend(EXTEND_SECONDS)
            hasten = asyncio.ensure_future(self._hasten.wait())
            await asyncio.wait({hasten}, timeout=min(left, EXTEND_SECONDS / 2))
            hasten.cancel()

    async def _end_of(self, keepers: Sequence[Keeper]) -> None:
        for keeper in keepers:
            keeper.retire()
        over = asyncio.ensure_future(all_over(keepers))
        hasten = asyncio.ensure_future(self._hasten.wait())
        while not over.done():
            self._notifier.extend(EXTEND_SECONDS)
            await asyncio.wait({over, hasten}, timeout=EXTEND_SECONDS / 2, return_when=asyncio.FIRST_COMPLETED)
            if hasten.done() and not over.done():
                for keeper in keepers:
                    keeper.retire()
                await asyncio.wait({over}, timeout=HASTEN_SECONDS)
                _kill(keepers)
                await over
        hasten.cancel()


def _kill(keepers: Iterable[Keeper]) -> None:
    for keeper in keepers:
        keeper.signal(signal.SIGKILL)


async def _first(*wanted: Awaitable[object]) -> None:
    tasks = {asyncio.ensure_future(one) for one in wanted}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def share_out(listeners: int, workers: int) -> tuple[tuple[int, ...], ...]:
    """Which listeners each worker polls. One each is the rule; sockets that were passed may be fewer or more."""
    if listeners < workers:
        return tuple((index % listeners,) for index in range(workers))
    return tuple(tuple(range(index, listeners, workers)) for index in range(workers))


def run(
    config: Config,
    reload: Callable[[], Config],
    listeners: Sequence[socket.socket],
    workers: int,
    notifier: Notifier,
    announce: Callable[[], None],
    *,
    api: socket.socket | None = None,
    admin: socket.socket | None = None,
) -> str | None:
    """Supervises until a signal, in the main thread. Returns why it could not go on, if so."""

    async def supervise() -> str | None:
        supervisor = Supervisor(config, reload, listeners, workers, notifier, api=api, admin=admin)
        return await supervisor.run(announce)

    return asyncio.run(supervise())
