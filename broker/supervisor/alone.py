"""A single worker in the main process. Nobody supervises it but systemd, which is told what a supervisor would tell."""

import signal
import socket
import time
from collections.abc import Callable, Sequence

from broker import log as logs
from broker import worker
from broker.config.errors import ConfigError
from broker.config.reload import in_force
from broker.config.schema import Config
from broker.supervisor import telling
from broker.supervisor.notify import Notifier
from broker.worker import BEAT_SECONDS, Worker

log = logs.get_logger(__name__, limited=False)

_STATUS = "1 worker accepts"


class _Renewal:
    """SIGHUP: what a process can change while it serves is changed, the rest is named."""

    def __init__(self, config: Config, read: Callable[[], Config], notifier: Notifier) -> None:
        self._started_with = config  # and what no reload changes is still as this says
        self._config = config
        self._read = read
        self._notifier = notifier

    async def run(self, worker: Worker) -> None:
        self._notifier.reloading()
        try:
            config, waits = in_force(self._started_with, self._read(), alone=True)
            await worker.reload(config)
        except ConfigError as error:
            for problem in error.problems:
                log.error("reload refused", problem=problem)
        except Exception:
            log.exception("reload failed")
        else:
            logs.use(config.log)
            telling.reloaded(self._config, config, waits, api_closed=worker.api is None)
            self._config = config
        self._notifier.ready(_STATUS)


def run(
    config: Config,
    reload: Callable[[], Config],
    listeners: Sequence[socket.socket],
    notifier: Notifier,
    announce: Callable[[], None],
    *,
    api: socket.socket | None = None,
) -> None:
    """Serves until it is told to end."""
    # Which ends a process that says nothing of it: until the worker looks, the file has just been read.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def ready() -> None:
        announce()
        notifier.ready(_STATUS)

    def stopping() -> None:
        telling.stopping()
        notifier.stopping("closing connections")

    def beat(_: Worker) -> tuple[int, ...]:
        notifier.watchdog_if_due(time.monotonic(), BEAT_SECONDS)
        return ()

    worker.run(
        config,
        listeners,
        ready,
        on_stopping=stopping,
        on_reload=_Renewal(config, reload, notifier).run,
        # 20 looks a second are for a watchdog only.
        beat=None if notifier.watchdog_seconds is None else beat,
        api=api,
    )
