"""A single worker in the main process. Nobody supervises it but systemd, which is told what a supervisor would tell."""

import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence

from broker import worker
from broker.config.schema import Config
from broker.supervisor.notify import Notifier
from broker.worker import BEAT_SECONDS, Worker

log = logging.getLogger(__name__)

_NOT_RELOADED = "not reloaded: one worker has nobody to take its clients over; restart it, or serve with --workers 2"


def run(
    config: Config,
    listeners: Sequence[socket.socket],
    notifier: Notifier,
    announce: Callable[[], None],
    *,
    api: socket.socket | None = None,
) -> None:
    """Serves until it is told to end. SIGHUP, which ends a process that says nothing of it, is answered with a line."""
    signal.signal(signal.SIGHUP, lambda *_: log.warning(_NOT_RELOADED))

    def ready() -> None:
        announce()
        notifier.ready("1 worker accepts")

    def beat(_: Worker) -> tuple[int, ...]:
        notifier.watchdog_if_due(time.monotonic(), BEAT_SECONDS)
        return ()

    worker.run(
        config,
        listeners,
        ready,
        on_stopping=lambda: notifier.stopping("closing connections"),
        # 20 looks a second are for a watchdog only.
        beat=None if notifier.watchdog_seconds is None else beat,
        api=api,
    )
