"""What all users of one locust worker share: statistics, authors and checkers, and what the master asks of them.

One process has one generator; it is there from
locust's `init` on: `generator()`. The master's half of the talk is conductor.py.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import gevent
from locust import events, runners
from locust.env import Environment
from locust.runners import MasterRunner

from loadtests.locustfiles.ledger import Author, Checker, Count, Stamp
from loadtests.locustfiles.names import (
    DELIVERY,
    GAP,
    GENERATOR,
    LAG,
    LAG_EARLY,
    LOSS,
    MISSING,
    REPEATED,
    TOLD,
    WEBSOCKET,
)

# The greenlet that measures the lag sleeps so long; what it oversleeps is how late every other greenlet may be too.
LAG_SECONDS = 0.05
# Seconds between two reports of a worker; locust takes three, and then a second of a storm is not to be seen.
runners.WORKER_REPORT_INTERVAL = 1.0
# A loss of a million messages is a million in the verdict, and no more entries than this in locust's statistics.
MOST_ENTRIES = 10_000
# After the last publish, the run waits so long for each further message before what is missing is lost.
QUIET_SECONDS = 5.0


class Acting(Protocol):
    """A user that something is asked of while it runs."""

    def act(self, what: str) -> None: ...


class Generator:
    """`publishing`: until the run is to end. `phase`: what was last asked for; "" while users come, then "full"."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.publishing = True
        self.phase = ""
        self.open_sockets = 0
        self.busy_authors = 0
        self.users: set[Acting] = set()
        self._authors: dict[str, list[Author]] = {}
        self._checkers: list[Checker] = []
        self._indexes: dict[str, int] = {}
        self._most_lag_ms = 0.0

    # For users.

    def index(self, kind: str) -> int:
        """A number for a user of this kind: 0, 1, 2 ... over all workers, none twice."""
        runner = self.environment.runner
        workers = max(1, getattr(self.environment.parsed_options, "expect_workers", 1) or 1)
        number = self._indexes.get(kind, 0)
        self._indexes[kind] = number + 1
        return number * workers + max(0, getattr(runner, "worker_index", 0))

    def author(self, channel: str) -> Author:
        author = Author()
        self._authors.setdefault(channel, []).append(author)
        return author

    def checker(self, channel: str) -> Checker:
        checker = Checker(channel)
        self._checkers.append(checker)
        return checker

    def measured(self, kind: str, name: str, seconds: float | None, length: int = 0) -> None:
        """One entry of locust's statistics."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=None if seconds is None else seconds * 1000,
            response_length=length,
            exception=None,
            context={},
        )

    def failed(self, kind: str, name: str, what: str, seconds: float | None = None) -> None:
        """A failure. `what` names its kind and no particulars: locust keeps one row for each text."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=None if seconds is None else seconds * 1000,
            response_length=0,
            exception=RuntimeError(what),
            context={},
        )

    def heard(self, checker: Checker, stamp: Stamp, length: int, now_ns: int, name: str = DELIVERY) -> None:
        """A message: its latency, and what it shows to be missing."""
        repeated = checker.repeated
        self.lost(checker.hear(stamp))
        if checker.repeated > repeated:
            self.failed(LOSS, REPEATED, "came again, or after one that is newer")
        # The clocks of two machines may differ; a latency below 0 would bring them all down.
        self.measured(WEBSOCKET, name, max(0, now_ns - stamp.sent_ns) / 1e9, length)

    def told(self, checker: Checker, missed: int | None) -> None:
        """The broker says that messages are missing: no failure of its promise, and counted by itself."""
        self.lost(checker.gap(missed))
        self.measured(TOLD, GAP, None, missed or 0)

    def lost(self, count: int) -> None:
        for _ in range(min(count, MOST_ENTRIES)):
            self.failed(LOSS, MISSING, "never came")

    # For the master.

    def gauges(self) -> dict[str, float]:
        lag, self._most_lag_ms = self._most_lag_ms, 0.0
        return {
            "sockets": self.open_sockets,
            "received": sum(checker.received for checker in self._checkers),
            "lost": sum(checker.lost for checker in self._checkers),
            "repeated": sum(checker.repeated for checker in self._checkers),
            "told": sum(checker.told for checker in self._checkers),
            "lag_ms": lag,
        }

    def act(self, what: str) -> None:
        self.phase = what
        for user in list(self.users):
            user.act(what)

    def quiet(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Ends publishing, waits for what is on its way, and says what was published."""
        self.publishing = False
        while self.busy_authors:
            gevent.sleep(0.05)
        totals: dict[str, dict[str, tuple[int, int]]] = {}
        for channel, authors in self._authors.items():
            of_channel = totals.setdefault(channel, {})
            for author in authors:
                for name, count in author.counts().items():
                    of_channel[name] = (count.messages, count.last_ns)
        return totals

    def settle(self, totals: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
        """Waits until everybody has heard everything, or nothing has come for a while; what is missing then is lost."""
        counts = {
            channel: {name: Count(*pair) for name, pair in of_channel.items()} for channel, of_channel in totals.items()
        }
        waiting = list(self._checkers)
        received, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            waiting = [checker for checker in waiting if checker.behind(counts.get(checker.channel, {}))]
            if not waiting:
                break
            now = sum(checker.received + checker.told for checker in self._checkers)
            if now != received:
                received, since = now, time.monotonic()
            gevent.sleep(0.1)
        for checker in self._checkers:
            self.lost(checker.end(counts.get(checker.channel, {})))

    def watch_lag(self) -> None:
        """A greenlet, for good."""
        while True:
            asleep = time.perf_counter()
            gevent.sleep(LAG_SECONDS)
            lag = max(0.0, time.perf_counter() - asleep - LAG_SECONDS)
            self._most_lag_ms = max(self._most_lag_ms, lag * 1000)
            self.measured(GENERATOR, LAG if self.phase else LAG_EARLY, lag)


_generators: list[Generator] = []


def generator() -> Generator:
    """This process's."""
    return _generators[0]


def _on_init(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    assert runner is not None
    if isinstance(runner, MasterRunner):
        return  # it has no users
    shared = Generator(environment)
    _generators[:] = [shared]
    runner.greenlet.spawn(shared.watch_lag)

    def on_act(msg: Any, **_: Any) -> None:
        shared.act(msg.data["what"])

    def on_quiet(**_: Any) -> None:
        runner.send_message("published", {"totals": shared.quiet()})

    def on_totals(msg: Any, **_: Any) -> None:
        shared.settle(msg.data["totals"])
        runner.send_message("settled", shared.gauges())

    def on_report(data: dict[str, Any], **_: Any) -> None:
        data["loadtest"] = shared.gauges()

    runner.register_message("act", on_act)
    runner.register_message("quiet", on_quiet, concurrent=True)
    runner.register_message("totals", on_totals, concurrent=True)
    environment.events.report_to_master.add_listener(on_report)


events.init.add_listener(_on_init)
