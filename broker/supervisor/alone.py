"""A single worker in the main process. Nobody supervises it but systemd, which is told what a supervisor would tell.

The admin port is served by the same event loop: one that hangs does not answer, which is what a probe has to see.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

import uvloop

from broker import log as logs
from broker import worker
from broker.admin.health import Health, Process
from broker.admin.port import AdminPort
from broker.config.errors import ConfigError
from broker.config.reload import in_force
from broker.config.schema import Config
from broker.metrics.collector import registry
from broker.metrics.facts import Facts
from broker.metrics.page import ACCEPTING, DRAINING, STARTING, Page, worker_slot
from broker.metrics.patterns import PatternPlaces
from broker.supervisor import telling
from broker.supervisor.notify import Notifier
from broker.worker import BEAT_SECONDS, Worker

log = logs.get_logger(__name__, limited=False)

_STATUS = "1 worker accepts"


class _Renewal:
    """SIGHUP: what a process can change while it serves is changed, the rest is named."""

    def __init__(self, config: Config, read: Callable[[], Config], notifier: Notifier, facts: Facts) -> None:
        self._started_with = config  # and what no reload changes is still as this says
        self._config = config
        self._read = read
        self._notifier = notifier
        self._facts = facts

    async def run(self, worker: Worker) -> None:
        self._notifier.reloading()
        try:
            config, waits = in_force(self._started_with, self._read(), alone=True)
            await worker.reload(config)
        except ConfigError as error:
            self._facts.reloaded(None)
            for problem in error.problems:
                log.error("reload refused", problem=problem)
        except Exception:
            self._facts.reloaded(None)
            log.exception("reload failed")
        else:
            logs.use(config.log)
            telling.reloaded(self._config, config, waits, api_closed=worker.api is None)
            self._config = config
            self._facts.reloaded(config)
        self._notifier.ready(_STATUS)


class _Presence:
    """What a supervisor and its children would tell of themselves, told by the one process there is."""

    def __init__(self, page: Page, facts: Facts, notifier: Notifier) -> None:
        self._page = page
        self._facts = facts
        self._row = page.row(worker_slot(0, 0))
        self._row.begin(os.getpid())
        self._notifier = notifier

    def accepting(self) -> None:
        self._row.state = ACCEPTING

    def beat(self, worker: Worker) -> tuple[int, ...]:
        self._row.heartbeat_ns = time.monotonic_ns()
        self._row.paused = worker.draining or worker.full or not worker.reactor.accepting
        self._notifier.watchdog_if_due(time.monotonic(), BEAT_SECONDS)
        return ()

    def stopping(self) -> None:
        self._facts.draining = True
        telling.stopping()
        self._row.state = DRAINING
        self._notifier.stopping("closing connections")

    def health(self) -> Health:
        """For the admin port, by the loop it asks about: whoever gets this answer knows that it turns."""
        row = self._row
        return Health(
            1,
            [Process("the worker", row.state != STARTING, 0.0, full=row.paused)],
            [],
            None,
            draining=self._facts.draining,
            connections=self._page.taken(),
            most_connections=self._facts.config.limits.max_connections_total,
            stuck_seconds=math.inf,  # it would not be asked
            start_seconds=math.inf,
        )


def run(
    config: Config,
    reload: Callable[[], Config],
    listeners: Sequence[socket.socket],
    notifier: Notifier,
    announce: Callable[[], None],
    *,
    api: socket.socket | None = None,
    admin: socket.socket | None = None,
) -> None:
    """Serves until it is told to end."""
    # Which ends a process that says nothing of it: until the worker looks, the file has just been read.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    uvloop.run(_serve(config, reload, listeners, notifier, announce, api, admin))


async def _serve(
    config: Config,
    reload: Callable[[], Config],
    listeners: Sequence[socket.socket],
    notifier: Notifier,
    announce: Callable[[], None],
    api: socket.socket | None,
    admin: socket.socket | None,
) -> None:
    page = Page.new(1)
    facts = Facts(config, PatternPlaces(), lambda: True)
    facts.process_started("worker")
    presence = _Presence(page, facts, notifier)
    port = None if admin is None else AdminPort(config, admin, registry(page, facts), presence.health)
    if port is not None:
        await port.start()

    def ready() -> None:
        presence.accepting()
        announce()
        notifier.ready(_STATUS)

    await worker.serve(
        config,
        listeners,
        ready,
        on_stopping=presence.stopping,
        on_reload=_Renewal(config, reload, notifier, facts).run,
        counters=page.row(worker_slot(0, 0)).counters,
        # 20 looks a second are for a watchdog, or for whoever reads the page.
        beat=None if port is None and notifier.watchdog_seconds is None else presence.beat,
        api=api,
        pattern_places=facts.patterns.assign(config.channels),
    )
    if port is not None:
        await port.stop()
