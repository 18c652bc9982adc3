"""Load shapes: users come, stay, something happens to them, and the run ends when all messages are accounted for.

A shape runs on the master, once a second. The end has three steps (conductor.py): nobody publishes any more, the
workers are told what was published, and they say what was missing.
"""

import math
import time

from locust import LoadTestShape

from loadtests.locustfiles.conductor import conductor

# From the last user's start until its socket is open.
PATIENCE_SECONDS = 60.0


class Ramp(LoadTestShape):
    """`--users` at `--spawn-rate`, in `--steps` that share `--hold` among them."""

    abstract = True
    use_common_options = True

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._reached_at: float | None = None  # when all users of this step had been started
        self._full_at: float | None = None  # when all sockets were open, or some did not come
        self._acted = 0

    def events(self) -> list[tuple[float, str]]:
        """(seconds since all are there, what every user is asked), in order of time."""
        return []

    def tick(self) -> tuple[int, float] | None:
        options = conductor().options
        steps = max(1, options.steps)
        now = time.monotonic()
        if self._step == 0:
            return self._next_step(steps)
        if self._reached_at is None:
            self._reached_at = now  # locust calls again when it has started everybody
        stayed = now - self._reached_at
        if self._step < steps:
            return self._next_step(steps) if stayed >= options.hold / steps else self._users(steps)
        if self._full_at is None and (conductor().sockets >= options.num_users or stayed >= PATIENCE_SECONDS):
            self._full_at = now
            conductor().full()
        return None if self._full_at is not None and self._lived(now - self._full_at) else self._users(steps)

    def _next_step(self, steps: int) -> tuple[int, float]:
        self._step += 1
        self._reached_at = None
        return self._users(steps)

    def _users(self, steps: int) -> tuple[int, float]:
        """A user is a socket; back ends are users of locust's beside them."""
        master = conductor()
        back_ends = sum(kind.fixed_count for kind in master.runner.user_classes)
        return math.ceil(master.options.num_users * self._step / steps) + back_ends, master.options.spawn_rate

    def _lived(self, seconds: float) -> bool:
        """All are there since so long. Whether the run is over."""
        master = conductor()
        events = self.events()
        while self._acted < len(events) and seconds >= events[self._acted][0]:
            master.act(events[self._acted][1])
            self._acted += 1
        return seconds >= master.options.hold / max(1, master.options.steps) and master.ended()


class Storm(Ramp):
    """The same; then everybody's connection is cut at the same moment, `--cuts` times."""

    abstract = True

    def events(self) -> list[tuple[float, str]]:
        options = conductor().options
        return [(options.hold * (number + 1) / (options.cuts + 1), "cut") for number in range(options.cuts)]


class Stall(Ramp):
    """The same; after a third of the time some users are asked to stop reading."""

    abstract = True

    def events(self) -> list[tuple[float, str]]:
        return [(conductor().options.hold / 3, "stall")]
