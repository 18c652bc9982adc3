"""A child as the engine: one listening Unix socket, one row of the page."""

import asyncio
import contextlib
import signal
import socket
import time

import uvloop

from broker import log
from broker.engine import process as engine_process
from broker.gauges import write_holdings
from broker.metrics.page import Page
from broker.native import _counters
from broker.supervisor.spec import ChildSpec, tell_ready

_LINK_LOST = _counters.NAMES.index("n_link_lost")


def run(spec: ChildSpec, page: Page) -> None:
    uvloop.run(_serve(spec, page))


async def _serve(spec: ChildSpec, page: Page) -> None:
    row = page.row(spec.slot)

    counters = row.counters

    def beat(engine: engine_process.EngineProcess) -> None:
        counters[_LINK_LOST] = engine.exchange.lost_count
        write_holdings(counters, engine.holdings())
        row.heartbeat_ns = time.monotonic_ns()
        log.tell_suppressed()

    with socket.socket(fileno=spec.link_fd) as listener:
        listener.setblocking(False)
        serving = asyncio.ensure_future(engine_process.serve(listener, spec.config, beat, lambda: tell_ready(spec)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
