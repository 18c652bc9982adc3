"""The master's part: what all workers report, the end of a run in order, and the verdict.

The end: "quiet" (nobody publishes any more; each worker answers what it published), "totals" (all of that; each worker
waits for what is on its way and answers "settled" with its final numbers). A worker that does not answer is a problem
of the verdict, and so is everything that locust counts as a failure. Files beside locust's own: PREFIX_sockets.csv, a
row a second, and PREFIX_verdict.json.
"""

import csv
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import gevent
from locust import events, runners
from locust.env import Environment
from locust.runners import MasterRunner

from loadtests.locustfiles.names import DELIVERY, GENERATOR, LAG, LATENCIES, WEBSOCKET

# Seconds of silence after which locust gives a worker's users to the others. Of itself it takes 3, which a busy machine
# may need to start a thousand users; then they come back as well, and there are more than were asked for (measured).
runners.HEARTBEAT_LIVENESS = 20
GAUGES = ("sockets", "received", "lost", "repeated", "told")
COLUMNS = ("seconds", "users", *GAUGES, "lag_ms")
PROGRESS_SECONDS = 5
# Each step of the end; the workers wait for messages for as long as any come.
END_SECONDS = 120.0
# Before it, for those who are away.
BACK_SECONDS = 30.0


class Conductor:
    """One, in the master's process: `conductor()`."""

    def __init__(self, environment: Environment, runner: MasterRunner) -> None:
        self.environment = environment
        self.runner = runner
        self.most_sockets = 0
        self.problems: list[str] = []
        # A scenario's own, asked at the end: what was wrong.
        self.checks: list[Callable[[], list[str]]] = []
        self._started = time.monotonic()
        self._gauges: dict[str, dict[str, float]] = {}
        self._workers: set[str] = set()
        self._published: dict[str, dict[str, dict[str, Any]]] = {}
        self._settled: set[str] = set()
        self._ending: Iterator[bool] | None = None

    @property
    def options(self) -> Namespace:
        options: Namespace | None = self.environment.parsed_options
        assert options is not None, "locust was started by its command"
        return options

    @property
    def sockets(self) -> int:
        """Open right now, as the workers said a few seconds ago."""
        return int(self.total("sockets"))

    def total(self, gauge: str) -> float:
        return sum(gauges.get(gauge, 0) for gauges in self._gauges.values())

    def count(self, kind: str, name: str) -> int:
        """How many entries locust has under this name."""
        entry = self.environment.stats.entries.get((name, kind))
        return entry.num_requests if entry is not None else 0

    def full(self) -> None:
        """All users are there, or have had their time."""
        self.act("full")

    def act(self, what: str) -> None:
        """Every user is asked this, now."""
        say(f"to all: {what}")
        self.runner.send_message("act", {"what": what})

    def ended(self) -> bool:
        """Begins the end, or goes on with it; call it again until it is true."""
        if self._ending is None:
            self._ending = self._end()
        return next(self._ending, True)

    def _end(self) -> Iterator[bool]:
        self._workers = set(self.runner.clients)
        if len(self._workers) < self.options.expect_workers:
            self.problems.append(f"{len(self._workers)} of {self.options.expect_workers} workers are there at the end")
        deadline = time.monotonic() + BACK_SECONDS
        while self.sockets < self.options.num_users and time.monotonic() < deadline:
            yield False
        if self.sockets < self.options.num_users:
            self.problems.append(f"only {self.sockets} of {self.options.num_users} sockets are open at the end")
        if self.most_sockets > self.options.num_users:
            self.problems.append(f"{self.most_sockets} sockets were open, and {self.options.num_users} asked for")
        self.runner.send_message("quiet")
        yield from self._wait_for(self._published, "did not say what they published")
        totals: dict[str, dict[str, Any]] = {}
        for published in self._published.values():
            for channel, authors in published.items():
                totals.setdefault(channel, {}).update(authors)
        self.runner.send_message("totals", {"totals": totals})
        yield from self._wait_for(self._settled, "did not say what was missing")

    def _wait_for(self, answered: Any, otherwise: str) -> Iterator[bool]:
        deadline = time.monotonic() + END_SECONDS
        while not self._workers <= set(answered):
            if time.monotonic() > deadline:
                self.problems.append(f"{len(self._workers - set(answered))} workers {otherwise}")
                return
            yield False

    # What the workers say.

    def on_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._take(client_id, data.get("loadtest", {}))

    def _take(self, client_id: str, gauges: dict[str, float]) -> None:
        if client_id not in self._settled:
            self._gauges[client_id] = gauges
            self.most_sockets = max(self.most_sockets, self.sockets)

    def on_published(self, msg: Any, **_: Any) -> None:
        self._published[msg.node_id] = msg.data["totals"]

    def on_settled(self, msg: Any, **_: Any) -> None:
        self._take(msg.node_id, msg.data)
        self._settled.add(msg.node_id)

    # What everybody sees.

    def watch(self, file: TextIO | None) -> None:
        """A greenlet: a row a second, a line every few."""
        table = csv.writer(file) if file is not None else None
        if table is not None:
            table.writerow(COLUMNS)
        received = 0.0
        for second in range(sys.maxsize):
            gevent.sleep(1)
            seconds = round(time.monotonic() - self._started)
            lag = max((gauges.get("lag_ms", 0) for gauges in self._gauges.values()), default=0.0)
            if table is not None and file is not None:
                row = (int(self.total(gauge)) for gauge in GAUGES)
                table.writerow((seconds, self.runner.user_count, *row, round(lag, 1)))
                file.flush()
            if second % PROGRESS_SECONDS == PROGRESS_SECONDS - 1 and self._gauges:
                now = self.total("received")
                rate = max(0.0, now - received) / PROGRESS_SECONDS
                say(
                    f"{seconds:4} s  {self.sockets:6} sockets  {rate:6.0f} deliveries/s  p99 {self.current_p99()} ms  "
                    f"lost {self.total('lost'):.0f}  told {self.total('told'):.0f}  lag {lag:.0f} ms"
                )
                received = now

    def current_p99(self) -> int:
        """Of the last ten seconds, in milliseconds."""
        entries = self.environment.stats.entries
        rows = [entries[name, WEBSOCKET] for name in LATENCIES if (name, WEBSOCKET) in entries]
        return max((int(row.get_current_response_time_percentile(0.99) or 0) for row in rows), default=0)

    def verdict(self) -> dict[str, Any]:
        """What was wrong, and the numbers that a reader looks for first."""
        stats = self.environment.stats
        problems = [f"{error.occurrences} x {error.to_name()}" for error in stats.errors.values()]
        problems += [f"{row['count']} x {row['msg']} in a user" for row in self.runner.exceptions.values()]
        problems += self.problems
        problems += [problem for check in self.checks for problem in check()]
        if not self._settled:
            problems.append("the run did not come to its end")
        if not self.total("received"):
            problems.append("nobody received anything: this run shows nothing")
        lag = stats.get(LAG, GENERATOR)
        p99 = lag.get_response_time_percentile(0.99)
        warnings = []
        if p99 > self.options.lag_ms:
            warnings.append(
                f"the generator itself was {p99:.0f} ms late (p99): latencies are its own, not the broker's; "
                "take more workers, other machines, or less load"
            )
        if self.runner.worker_cpu_warning_emitted:
            warnings.append("a worker of locust used more than 90 % of its processor: take more of them")
        delivery = stats.get(DELIVERY, WEBSOCKET)
        return {
            "ok": not problems,
            "problems": problems,
            "warnings": warnings,
            "workers": len(self._workers),
            "most_sockets": self.most_sockets,
            **{gauge: int(self.total(gauge)) for gauge in GAUGES if gauge != "sockets"},
            "delivery_p50_ms": delivery.get_response_time_percentile(0.5),
            "delivery_p99_ms": delivery.get_response_time_percentile(0.99),
            "lag_p99_ms": p99,
        }


def say(line: str) -> None:
    """To whoever started the master; locust's own lines go to its log."""
    print(f"  {line}", flush=True)


_conductors: list[Conductor] = []


def conductor() -> Conductor:
    """This process's."""
    return _conductors[0]


def _on_init(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        return
    master = Conductor(environment, runner)
    _conductors[:] = [master]
    prefix = master.options.csv_prefix
    # Open as long as the master lives.
    file = Path(f"{prefix}_sockets.csv").open("w", newline="") if prefix else None  # noqa: SIM115
    runner.greenlet.spawn(master.watch, file)
    runner.register_message("published", master.on_published)
    runner.register_message("settled", master.on_settled)
    environment.events.worker_report.add_listener(master.on_report)

    def on_quitting(**_: Any) -> None:
        verdict = master.verdict()
        environment.process_exit_code = 0 if verdict["ok"] else 1
        if prefix:
            Path(f"{prefix}_verdict.json").write_text(json.dumps(verdict, indent=1) + "\n")
        if file is not None:
            file.close()

    environment.events.quitting.add_listener(on_quitting)
    # Whoever starts workers has to know the port if it was left to the system (--master-bind-port 0).
    if master.options.master_bind_port == 0:
        print(f"workers: {runner.server.port}", flush=True)


events.init.add_listener(_on_init)
