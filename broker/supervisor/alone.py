"""A single worker in the main process. Nobody supervises it but systemd, which is told what a supervisor would tell."""

import socket
import time
from collections.abc import Callable, Sequence

from broker import worker
from broker.config.schema import Config
from broker.supervisor.notify import Notifier
from broker.worker import BEAT_SECONDS, Worker


def run(config: Config, listeners: Sequence[socket.socket], notifier: Notifier, announce: Callable[[], None]) -> None:
    """Serves until it is told to end."""

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
    )
