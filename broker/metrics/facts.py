"""What the main process knows that stands in no row of the shared page: children, reloads, the end."""

import time
from collections.abc import Callable, Mapping
from typing import Literal

from broker.config.schema import Config
from broker.config.unsafe import unsafe_settings
from broker.metrics.patterns import PatternPlaces

ProcessKind = Literal["worker", "engine"]
Reason = Literal["exit", "killed", "stuck"]
PROCESSES: tuple[ProcessKind, ...] = ("worker", "engine")
REASONS: tuple[Reason, ...] = ("exit", "killed", "stuck")


class Facts:
    """Written by the supervisor, or by the one process that there is; read by the collector, in the same thread.

    `engine_up` is asked at each scrape.
    """

    def __init__(
        self,
        config: Config,
        patterns: PatternPlaces,
        engine_up: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.patterns = patterns
        self.engine_up = engine_up
        self.started_at = clock()
        self.draining = False
        self.starts: dict[ProcessKind, int] = dict.fromkeys(PROCESSES, 0)
        self.deaths: dict[tuple[ProcessKind, Reason], int] = {(p, r): 0 for p in PROCESSES for r in REASONS}
        self.reloads: dict[str, int] = {"done": 0, "refused": 0}

    def process_started(self, process: ProcessKind) -> None:
        self.starts[process] += 1

    def process_died(self, process: ProcessKind, reason: Reason) -> None:
        self.deaths[process, reason] += 1

    def reloaded(self, config: Config | None) -> None:
        """None: it was refused, and everything is as it was."""
        self.reloads["refused" if config is None else "done"] += 1
        if config is not None:
            self.config = config

    @property
    def unsafe(self) -> list[str]:
        return unsafe_settings(self.config)

    @property
    def pattern_names(self) -> Mapping[int, str]:
        return self.patterns.names()
