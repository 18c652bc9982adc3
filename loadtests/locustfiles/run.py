"""`make loadtest`: starts a broker, a locust master and workers, runs one scenario, writes the report, ends everything.

Exit code: 0 = every message came and every socket was there, 1 = something is missing or broke, 2 = wrong flags. With
--host the broker is another one, which has to have the channels of broker.toml; its key is in LOADTEST_API_KEY.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from loadtests.locustfiles.broker import CONFIG, Broker
from loadtests.locustfiles.outcome import PREFIX, VERDICT, Outcome
from loadtests.report import machine, to_stderr
from loadtests.server import ROOT, BenchError, need_files

FOLDER = Path(__file__).parent
API_KEY = "LOADTEST_API_KEY"
# Files of a process beside its sockets.
OTHER_FILES = 300
STARTS_A_SECOND = 100  # users of one locust worker; it warns itself beyond that
SPARE_SECONDS = 400.0  # beside what starting all users takes: for slow machines, and for the end of a run
END_SECONDS = 10.0


class Target(NamedTuple):
    """The broker. Its key is handed on in the environment: arguments are for everybody to see."""

    url: str
    api_url: str
    key: str


@dataclass(frozen=True)
class Scenario:
    """What it takes if nothing else is asked for: sizes that two processors bear."""

    title: str
    users: int
    per_channel: int
    rate: float


SCENARIOS = {
    "crowd": Scenario("many subscribers, a back end publishes over HTTP", 5000, 50, 1.0),
    "chat": Scenario("clients publish and hear in rooms", 2000, 10, 0.0),
    "dashboards": Scenario("many small updates, only the newest value counts", 1000, 20, 1.0),
    "storm": Scenario("all are cut at once, come back and resume", 2000, 50, 1.0),
    "slow": Scenario("a share of the clients stops reading; the others must not notice", 500, 50, 10.0),
    "untold": Scenario("has to fail: messages are dropped without a word", 20, 10, 50.0),
}

OWN = Scenario("a locustfile of one's own", 100, 50, 1.0)

EPILOG = """\
scenarios:
{scenarios}

examples:
  make loadtest                                            5000 subscribers for a minute
  make loadtest ARGS="--scenario storm --users 1000"       another scenario, another size
  make loadtest ARGS="--scenario chat --hold 600"          ten minutes with all users there
  LOADTEST_API_KEY=... make loadtest ARGS="--host ws://10.0.0.7:8000/ws --api-url http://10.0.0.7:8001"
                                                           a broker that runs elsewhere

Flags that are not listed go to locust: --steps, --cuts, --think, --slow-share, --lag-ms ...
"""


def parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<11} {scenario.title}" for name, scenario in SCENARIOS.items())
    flags = argparse.ArgumentParser(
        prog="make loadtest",
        description="Load tests with locust; see docs/load-testing.md.",
        epilog=EPILOG.format(scenarios=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--scenario", default="crowd", metavar="NAME|FILE", help="or a locustfile [default: crowd]")
    flags.add_argument("--users", type=int, help="sockets [default: the scenario's]")
    flags.add_argument("--channels", type=int, help="channels that they share [default: the scenario's share]")
    flags.add_argument("--rate", type=float, help="messages a second in each channel [default: the scenario's]")
    flags.add_argument("--hold", type=float, default=60.0, metavar="SECONDS", help="with all users there [default: 60]")
    flags.add_argument("--spawn-rate", type=float, help="users that start a second [default: 100 for each worker]")
    flags.add_argument("--workers", type=int, default=2, help="locust's processes [default: 2]")
    flags.add_argument("--broker-workers", type=int, default=2, help="the broker's processes [default: 2]")
    flags.add_argument(
        "--config", type=Path, default=CONFIG, help="its configuration [default: broker.toml beside this]"
    )
    flags.add_argument("--host", help="a broker that runs already: ws://HOST:PORT/ws")
    flags.add_argument("--api-url", help="its HTTP API: http://HOST:PORT")
    flags.add_argument("--out", type=Path, help="folder of the report [default: build/loadtest/TIME-SCENARIO]")
    flags.add_argument("--no-plots", action="store_true", help="the report without pictures")
    return flags


def scenario_file(name: str) -> Path | None:
    """The locustfile of this name, or at this path."""
    file = Path(name).resolve() if name.endswith(".py") else FOLDER / f"{name}.py"
    return file if name in SCENARIOS or (name.endswith(".py") and file.is_file()) else None


def main(arguments: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what it has started, too
    flags = parser()
    options, others = flags.parse_known_args(arguments)
    file = scenario_file(options.scenario)
    if file is None:
        flags.error(f"no scenario {options.scenario!r}; there are {', '.join(SCENARIOS)}, or a locustfile of yours")
    scenario = SCENARIOS.get(options.scenario, OWN)
    users = options.users if options.users is not None else scenario.users
    if users < 1 or options.workers < 1 or options.broker_workers < 1:
        flags.error("--users, --workers and --broker-workers are at least 1")
    if (options.host is None) != (options.api_url is None):
        flags.error("--host and --api-url go together")
    if options.host is not None and not options.host.startswith("ws://"):
        flags.error("--host begins with ws://: these clients speak no TLS")
    if options.host is not None and API_KEY not in os.environ:
        flags.error(f"the key of {options.api_url} belongs in the environment variable {API_KEY}")
    channels = options.channels or max(1, users // scenario.per_channel)
    rate = scenario.rate if options.rate is None else options.rate
    out = (options.out or ROOT / "build/loadtest" / f"{time.strftime('%Y%m%d-%H%M%S')}-{file.stem}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / VERDICT).unlink(missing_ok=True)  # of an earlier run in the same folder
    about = {
        "scenario": file.stem,
        "users": users,
        "channels": channels,
        "rate": rate,
        "hold_seconds": options.hold,
        "locust_workers": options.workers,
        "broker_workers": options.broker_workers if options.host is None else None,
        "flags": others,
        "machine": {**machine(), "locust": version("locust"), "gevent": version("gevent")},
    }
    to_stderr(f"{file.stem}: {scenario.title}; {users} sockets, {channels} channels; report in {out}")
    ours = ["--channels", str(channels), "--rate", str(rate), "--hold", str(options.hold), *others]
    spawn_rate = options.spawn_rate or STARTS_A_SECOND * options.workers
    locust = Locust(file, users, spawn_rate, options.workers, out, ours)
    problems: list[str] = []
    try:
        need_files(users + OTHER_FILES)
        if options.host is not None:
            problems += locust.run(Target(options.host, options.api_url, os.environ[API_KEY]), options.hold)
        else:
            problems += with_broker(locust, options)
    except BenchError as error:
        problems.append(str(error))
    except KeyboardInterrupt:
        problems.append("interrupted")
    return finish(out, about, problems, plots=not options.no_plots)


def with_broker(locust: "Locust", options: argparse.Namespace) -> list[str]:
    """The same beside a broker of its own, whose end is judged, too."""
    with Broker(locust.out, options.broker_workers, options.config) as broker:
        problems = locust.run(Target(broker.url, broker.api_url, broker.key), options.hold)
        metrics = broker.metrics()
        if metrics is not None:
            (locust.out / "metrics.txt").write_text(metrics)
        return problems + broker.stop()


def finish(out: Path, about: dict[str, object], problems: list[str], plots: bool) -> int:
    """Puts what locust's master found together with what was seen from outside; says and keeps it."""
    result = Outcome.read(out, problems)
    (out / "summary.json").write_text(json.dumps({**about, **result.document()}, indent=1) + "\n")
    if plots and result.complete:
        # It takes a second to import and is no part of the load.
        from loadtests.locustfiles.plots import draw

        draw(out)
    print(result.text(), flush=True)
    print(f"\nreport: {out}", flush=True)
    return 0 if result.ok else 1


@dataclass(frozen=True)
class Locust:
    """A master and its workers for one run, by locust's own distributed mode."""

    file: Path
    users: int
    spawn_rate: float
    workers: int
    out: Path
    flags: list[str]

    def run(self, target: Target, seconds: float) -> list[str]:
        """Until it has ended by itself. Returns what was wrong beside what its verdict says."""
        common = [sys.executable, "-m", "locust", "-f", str(self.file), "--headless"]
        master = [*common, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", "0"]
        master += ["--expect-workers", str(self.workers), "--expect-workers-max-wait", "60"]
        master += ["--users", str(self.users), "--spawn-rate", str(self.spawn_rate)]
        master += ["--host", target.url, "--api-url", target.api_url, *self.flags]
        master += ["--only-summary", "--csv", str(self.out / PREFIX), "--csv-full-history"]
        master += ["--html", str(self.out / "report.html"), "--logfile", str(self.out / "locust.log")]
        with ExitStack() as stack:
            first = stack.enter_context(_started(master, target, self.out / "locust.err"))
            port = _port(first)
            if port is None:
                return self._fails("locust's master did not start")
            for number in range(self.workers):
                log = ["--logfile", str(self.out / f"worker-{number}.log")]
                address = ["--master-host", "127.0.0.1", "--master-port", port]
                stack.enter_context(
                    _started([*common, "--worker", *address, *log], target, self.out / f"worker-{number}.err")
                )
            if not _follow(first, seconds + self.users / self.spawn_rate + SPARE_SECONDS):
                return self._fails("locust did not come to its end in time")
        return [] if first.returncode in (0, 1) else self._fails(f"locust ended with status {first.returncode}")

    def _fails(self, why: str) -> list[str]:
        said = (self.out / "locust.err").read_text(errors="replace").splitlines()
        return [why, *said[-3:]]


@contextmanager
def _started(command: list[str], target: Target, errors: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of locust's. At the end it has a moment to end by itself, as it does when the master tells it to."""
    environment = {**os.environ, API_KEY: target.key, "PYTHONUNBUFFERED": "1"}
    # gevent switches stacks, which a sanitizer takes for faults; the native core is not in these processes anyhow.
    environment.pop("BROKER_NATIVE_PRELOAD", None)
    with (
        errors.open("wb") as file,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file
        ) as process,
    ):
        try:
            yield process
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()


def _port(master: "subprocess.Popen[bytes]") -> str | None:
    """Where it waits for workers, as conductor.py says; None if it ended instead."""
    assert master.stdout is not None
    for line in iter(master.stdout.readline, b""):
        if line.startswith(b"workers: "):
            return line.split()[1].decode()
    return None


def _follow(master: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Hands on what it says until it ends; false if it does not in that time."""
    assert master.stdout is not None
    fd, deadline = master.stdout.fileno(), time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and select.select([fd], [], [], left)[0]:
        data = os.read(fd, 65_536)
        if not data:
            master.wait()
            return True
        sys.stderr.write(data.decode())
        sys.stderr.flush()
    return False


if __name__ == "__main__":
    sys.exit(main())
