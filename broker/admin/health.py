"""Whether the broker lives and whether it is ready: rules over what its main process knows, without clock or I/O.

*Live* asks only whether event loops turn: no is a reason to start the broker anew. *Ready* asks whether a client that
comes now is served: no is a reason to send it elsewhere. So an engine that died makes the broker not ready, and never
not live: starting everything anew would add a storm of reconnecting clients to the trouble.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Forty heartbeats. A loop that is silent for so long serves nobody; one that is silent for less has much to do.
SILENT_SECONDS = 2.0


class Process(NamedTuple):
    """A worker or the engine. `ready`: it has said so. `seconds`: since its last heartbeat if it is ready; otherwise
    since its place is empty. `stuck`: it is killed, or the one before it was, because its loop did not turn. The rest
    is of workers only: it takes no more connections; it can sequence publishes.
    """

    name: str
    ready: bool
    seconds: float
    stuck: bool = False
    full: bool = False
    linked: bool = False


class Health(NamedTuple):
    """`wanted`: of workers that there should be. `leaving`: workers that others have replaced or replace. `engine`: the
    process, or the place of one; None = it is a part of the one process there is.
    """

    wanted: int
    workers: Sequence[Process]
    leaving: Sequence[Process]
    engine: Sequence[Process] | None
    draining: bool
    connections: int
    # 0 = as many as the workers take.
    most_connections: int
    stuck_seconds: float
    start_seconds: float


class Verdict(NamedTuple):
    """`reasons`: for people, one line each; why not, or what is well."""

    well: bool
    reasons: list[str]


def live(health: Health) -> Verdict:
    processes = [*health.workers, *health.leaving, *(health.engine or ())]
    why_not = [reason for process in processes if (reason := _not_live(process, health))]
    if why_not:
        return Verdict(False, why_not)
    starting = [f"{process.name} is starting" for process in processes if not process.ready]
    return Verdict(True, ["every event loop turns", *starting])


def _not_live(process: Process, health: Health) -> str | None:
    if process.ready and (process.stuck or process.seconds > health.stuck_seconds):
        return f"{process.name} is stuck: its event loop has not turned for {process.seconds:.1f} s"
    if not process.ready and process.stuck:
        return f"{process.name} was stuck and is being started again"
    if not process.ready and process.seconds > health.start_seconds:
        return f"{process.name} has not been ready for {process.seconds:.1f} s"
    return None


def ready(health: Health) -> Verdict:
    accepting = [worker for worker in health.workers if _serves(worker, health)]
    why_not = list(_not_ready(health, accepting))
    if why_not:
        return Verdict(False, why_not)
    well = [f"{len(accepting)} of {health.wanted} workers accept", *_missing(health)]
    if health.engine is not None:
        well.append("the engine sequences")
    return Verdict(True, well)


def _not_ready(health: Health, accepting: Sequence[Process]) -> Iterator[str]:
    if health.draining:
        yield "draining: the broker was told to end"
        return  # what is missing by now has ended
    if not accepting:
        yield f"0 of {health.wanted} workers accept"
        yield from _missing(health)
    elif all(worker.full for worker in [*accepting, *(one for one in health.leaving if _serves(one, health))]):
        # Those of a reload take clients as well: while they are empty, the others leave theirs to them.
        yield "full: no worker takes more connections"
    if 0 < health.most_connections <= health.connections:
        yield f"full: {health.connections} connections, limits.max_connections_total is {health.most_connections}"
    if health.engine is None:
        return
    engine = [_state(process, health) for process in health.engine if not _serves(process, health)]
    yield from engine
    if not health.engine:
        yield "engine is starting"
    elif not engine:
        for worker in accepting:
            if not worker.linked:
                yield f"{worker.name} has no link to the engine"


def _serves(process: Process, health: Health) -> bool:
    return process.ready and not process.stuck and process.seconds <= min(SILENT_SECONDS, health.stuck_seconds)


def _missing(health: Health) -> list[str]:
    return [_state(worker, health) for worker in health.workers if not _serves(worker, health)]


def _state(process: Process, health: Health) -> str:
    """Of one that does not serve."""
    if not process.ready:
        return f"{process.name} is starting"
    return f"{process.name} is silent: its event loop has not turned for {process.seconds:.1f} s"
