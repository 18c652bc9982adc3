"""A child as a worker: the listeners of all, its own row of the page, a link to the engine."""

import socket
from collections.abc import Iterable

import uvloop

from broker.engine.base import Sink
from broker.engine.link import LinkEngine
from broker.metrics.page import Page
from broker.supervisor.siblings import Siblings
from broker.supervisor.spec import ChildSpec, tell_ready
from broker.worker import Worker, serve


def run(spec: ChildSpec, page: Page) -> None:
    uvloop.run(_serve(spec, page))


async def _serve(spec: ChildSpec, page: Page) -> None:
    row = page.row(spec.slot)
    sockets = {at: socket.socket(fileno=fd) for at, fd in enumerate(spec.listeners)}
    polled = spec.pollers[spec.index]
    siblings = Siblings(page, spec.index, spec.slot, spec.pollers, spec.listeners)
    links: list[LinkEngine] = []

    def link(sink: Sink) -> LinkEngine:
        links.append(LinkEngine(sink, spec.link_address, spec.slot, spec.config.limits))
        return links[0]

    def beat(worker: Worker) -> Iterable[int]:
        row.link_up = links[0].up
        return siblings.beat(worker)

    def ready() -> None:
        siblings.accepting()
        tell_ready(spec)

    await serve(
        spec.config,
        [sockets[at] for at in polled],
        ready,
        delay=False,  # the supervisor has waited
        counters=row.counters,
        taken=page.taken,
        engine=link,
        siblings=[sockets[at] for at in sockets if at not in polled],
        beat=beat,
        api=socket.socket(fileno=spec.api_fd) if spec.api_fd >= 0 else None,
        pattern_places=spec.pattern_places,
    )
