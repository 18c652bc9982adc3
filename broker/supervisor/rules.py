"""When a child is given up and when it is started again: rules over numbers, with the clock of the caller."""

import random
from collections.abc import Callable, Mapping

# The first wait after a death in a row of early ones; it doubles. 0.1 s is nothing to a client that lost its connection
# and comes back, and 16 of them a second are nothing to the machine. (systemd's RestartSec: 0.1 s.)
FIRST_WAIT_SECONDS = 0.1
# A database that needs a minute to come back is found soon after.
LONGEST_WAIT_SECONDS = 5.0


class Judge:
    """Which child is stuck: silent for `stuck_seconds` while the machine had time for it.

    One at a time, and the next not before as long has passed again: if many are silent, the cause is more likely
    something that killing does not cure. A pause of the whole machine (a stopped virtual machine, SIGSTOP to all, heavy
    swapping) shows in the judge's own lateness; then everybody begins anew.
    """

    def __init__(self, stuck_seconds: float) -> None:
        self._stuck = stuck_seconds
        self._last_look: float | None = None
        self._counts_from = 0.0
        self._next_verdict = 0.0

    def pardon(self, now: float) -> None:
        """Silence before `now` is held against nobody."""
        self._counts_from = now

    def stuck(self, now: float, heartbeats: Mapping[int, float]) -> int | None:
        """The key of the one to kill. Called regularly; a call that comes late by half of `stuck_seconds` pardons all.

        Half: a pause too short to be noticed here leaves nobody silent for long enough.
        """
        late = self._last_look is not None and now - self._last_look > self._stuck / 2
        self._last_look = now
        if late:
            self.pardon(now)
        if now < self._next_verdict:
            return None
        silent = {key: now - max(beat, self._counts_from) for key, beat in heartbeats.items()}
        worst = max(silent, key=silent.__getitem__, default=None)
        if worst is None or silent[worst] <= self._stuck:
            return None
        self._next_verdict = now + self._stuck
        return worst


class Restarts:
    """How long one child's place stays empty after a death, and when starting again is given up.

    A death counts as early if the child had not been ready for `early_seconds`.
    """

    def __init__(
        self, most_early: int, early_seconds: float, chance: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._most = most_early
        self._early_seconds = early_seconds
        self._chance = chance
        self.early = 0

    def after_death(self, ready_seconds: float | None) -> float | None:
        """Seconds to wait before the next start; None = give up. `ready_seconds`: how long the child was ready, None =
        it never was.
        """
        if ready_seconds is not None and ready_seconds >= self._early_seconds:
            self.early = 0
            return 0.0
        self.early += 1
        if self.early >= self._most:
            return None
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (self.early - 1))
        # Jitter, so that children which died of one cause do not all come back at one moment.
        return self._chance(wait / 2, wait)
