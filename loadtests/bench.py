"""`make bench`: what this broker promises, measured from outside on this machine.

Starts its own brokers, on loopback, one for each scenario, and ends them. Exit code: 0 = every goal was met, 1 = one
was missed or something broke, 2 = wrong flags.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtests import acked, beside, churn, footprint, http_publish, resume, stalled, tiny, token_connect
from loadtests.report import Progress, Result, document, machine, table, to_stderr
from loadtests.server import BenchError, cpu_sets

Run = Callable[[Progress], Result]

EPILOG = """\
scenarios:
  beside    15 000 subscribers on one channel, 1 message a second; p99 of a small channel,
            of new connections and of /healthz meanwhile: at most 20 ms
  tiny      20 000 messages of 8 bytes at once to 500 readers: nobody cut, no byte wrong
  stalled   500 of 1000 subscribers never read: the others' p99 at most 1.3 times a control run
  churn     200 000 connects and closes: memory at most 5 MiB above the plateau, no fd left
  resume    100 000 messages to 50 subscribers that reconnect at random, two workers, a restart:
            none lost, none twice, none in another order, or the subscriber was told
  token_connect
            3000 connects without a token, with one verified before, with one each: CPU of the second
            at most 2 times that of the first
  http_publish
            publishes through one keep-alive connection, one by one and in batches of 100, beside nchan's
            publisher endpoint: batches at most 10 us of CPU for each message
  footprint memory of an idle connection of each kind, CPU of a delivery: no goals, for sizing
  acked     20 000 publishes through two workers in turns, under load: never reversed

examples:
  make bench                                everything, about ten minutes
  make bench ARGS="beside tiny"             some scenarios
  make bench ARGS="--quick"                 everything in seconds, to see that it works
  make bench ARGS="--full resume"           1 000 000 messages to 100 subscribers; see docs/performance.md
  make bench ARGS="--scale 0.2 beside"      a fifth of the clients, for small machines
  python loadtests/bench.py --json >a.json  numbers for a program; progress goes to stderr

Two or more CPUs are needed for numbers worth keeping: the broker runs alone on the first, the
load on the others. On one CPU, or beside other work, look at ratios only. "+" marks a goal that
was met, "!" one that was missed.
"""


def scenarios(quick: bool, scale: float, full: bool = False) -> dict[str, Run]:
    """Name → what runs it, in the size that was asked for."""
    if quick:
        return {
            beside.NAME: lambda progress: beside.run(beside.QUICK, progress),
            tiny.NAME: lambda progress: tiny.run(tiny.QUICK, progress),
            stalled.NAME: lambda progress: stalled.run(stalled.QUICK, progress),
            churn.NAME: lambda progress: churn.run(churn.QUICK, progress),
            resume.NAME: lambda progress: resume.run(resume.QUICK, progress),
            acked.NAME: lambda progress: acked.run(acked.QUICK, progress),
            token_connect.NAME: lambda progress: token_connect.run(token_connect.QUICK, progress),
            http_publish.NAME: lambda progress: http_publish.run(http_publish.QUICK, progress),
            footprint.NAME: lambda progress: footprint.run(footprint.QUICK, progress),
        }
    return {
        beside.NAME: lambda progress: beside.run(beside.scaled(scale), progress),
        tiny.NAME: lambda progress: tiny.run(tiny.scaled(scale), progress),
        stalled.NAME: lambda progress: stalled.run(stalled.scaled(scale), progress),
        churn.NAME: lambda progress: churn.run(churn.scaled(scale), progress),
        resume.NAME: lambda progress: resume.run(resume.FULL if full else resume.scaled(scale), progress),
        acked.NAME: lambda progress: acked.run(acked.scaled(scale), progress),
        token_connect.NAME: lambda progress: token_connect.run(token_connect.scaled(scale), progress),
        http_publish.NAME: lambda progress: http_publish.run(http_publish.scaled(scale), progress),
        footprint.NAME: lambda progress: footprint.run(footprint.scaled(scale), progress),
    }


def run_one(name: str, title: str, run: Run, progress: Progress) -> Result:
    """Runs a scenario; what breaks it becomes a failure of its result, so that the others still run."""
    started = time.monotonic()
    try:
        result = run(progress)
    except (BenchError, OSError) as error:
        result = Result(name, title, failures=[str(error)])
    result.seconds = time.monotonic() - started
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Measures this broker from outside, on loopback.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modules = (beside, tiny, stalled, churn, resume, acked, token_connect, http_publish, footprint)
    titles = {module.NAME: module.TITLE for module in modules}
    parser.add_argument("scenario", nargs="*", help="which ones [default: all]")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that everything works, measures nothing"
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="this share of the clients [default: 1]")
    parser.add_argument("--full", action="store_true", help="`resume` in a size that takes long, for a run by hand")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.scenario if name not in titles]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(titles)}")
    if not 0 < options.scale <= 1:
        parser.error("--scale is above 0 and at most 1")

    about = machine()
    to_stderr(" · ".join(f"{name} {value}" for name, value in about.items()))
    ours, load = cpu_sets()
    to_stderr(f"broker on CPU {sorted(ours)}, load on CPU {sorted(load)}")
    runs = scenarios(options.quick, options.scale, options.full)
    results: list[Result] = []
    for name in options.scenario or titles:
        to_stderr(f"{name}: {titles[name]}")
        results.append(run_one(name, titles[name], runs[name], lambda line: to_stderr(f"  {line}")))
        if not options.json:
            print(f"\n{table(results[-1])}\n", flush=True)
    if options.json:
        print(json.dumps(document(results), indent=1))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
