"""Scenario `stalled`: readers that stop reading must cost the others nothing, and memory a stated bound.

1000 subscribers on four channels, one for each policy of a full queue; 500 never read. The other 500 are compared with
a control run in which those 500 are connected but subscribed to a silent channel: the control has less work, not more.
Runs alternate in order; each has a broker of its own; what counts is the median of the pairs' ratios.
"""

import time
from dataclasses import dataclass

from loadtests.crowd import Crowd, Spec
from loadtests.loop import NS, Loop, Publisher, Subscriber
from loadtests.report import Progress, Result
from loadtests.server import Server, kernel_tcp_bytes, need_files, precedence
from loadtests.statistics import Latency, latency, median, paired_interval, paired_ratio, typical_p99
from loadtests.wire import marked, server_frame

NAME = "stalled"
TITLE = "half of the subscribers stop reading, policies mixed"
POLICIES = ("disconnect", "drop_oldest", "drop_newest", "latest")
CONFIG = "".join(f'[channels."work.{policy}"]\nqueue = "{policy}"\n' for policy in POLICIES)

MOST_RATIO = 1.3
# limits.memory_bytes and limits.notsent_lowat_bytes of config/broker.toml. The kernel stops one buffer after the mark.
MEMORY_BYTES = 268_435_456
NOTSENT_LOWAT_BYTES = 65_536
# Until then the kernel's buffers of the stalled readers fill (until 1.5 s, by perf), and no server can tell a reader
# that has stopped from one that reads: each costs what any reader costs, and the control has 500 fewer of those.
# What that does to the others is told as a row of its own.
WARM_UP_SECONDS = 2.0
ARRIVAL_SECONDS = 30.0
MIB = 1 << 20
# 64 KiB unsent and a receive window: some eight messages. Then policy latest keeps one, and the others begin to queue.
MISSED = " (lossy policies drop for readers that stand still for 0.4 s: was the load kept from its CPU?)"


@dataclass(frozen=True)
class Size:
    """`sampled` of the healthy readers of each channel are timed; the others only read."""

    healthy: int = 500
    stalled: int = 500
    sampled: int = 10
    payload_bytes: int = 16_384
    period_seconds: float = 0.05
    seconds: float = 11.0
    pairs: int = 9


QUICK = Size(healthy=40, stalled=40, sampled=2, seconds=1.5, pairs=1)


def scaled(factor: float) -> Size:
    count = max(48, int(500 * factor))
    return Size(healthy=count // 4 * 4, stalled=count // 4 * 4)


@dataclass(frozen=True)
class Run:
    latency: Latency
    filling_p99: float
    typical_p99: float
    rss_growth_bytes: int
    rss_bytes: int
    most_unsent_bytes: int
    unsent_bytes: int
    kernel_bytes: int
    waited_seconds: float
    cut: int
    failures: list[str]


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(size.healthy + size.stalled + 100)
    runs: dict[bool, list[Run]] = {True: [], False: []}
    for pair in range(size.pairs):
        for stall in (False, True) if pair % 2 == 0 else (True, False):
            with precedence():
                found = measure(size, stall)
            runs[stall].append(found)
            what = "stalled" if stall else "control"
            progress(
                f"pair {pair + 1} of {size.pairs}, {what}: p50 {found.latency.p50:.2f} ms, "
                f"p99 {found.latency.p99:.2f} ms, RSS +{found.rss_growth_bytes / MIB:.1f} MiB, {found.cut} cut, "
                f"other work had its CPU for {found.waited_seconds:.2f} s"
            )
            result.failures += [f"{what}: {failure}" for failure in found.failures]
    pairs = list(zip(runs[True], runs[False], strict=True))
    result.add("healthy readers", size.healthy, "")
    result.add("stalled readers", size.stalled, "")
    result.add("messages a second", len(POLICIES) / size.period_seconds, "/s")
    for name, stall in (("control", False), ("stalled", True)):
        result.add(f"{name}: p50, median of runs", median([one.latency.p50 for one in runs[stall]]), "ms")
        result.add(f"{name}: p99, median of runs", median([one.latency.p99 for one in runs[stall]]), "ms")
    result.add(
        "p50 stalled / control", paired_ratio([(one.latency.p50, other.latency.p50) for one, other in pairs]), "x"
    )
    p99s = [(one.latency.p99, other.latency.p99) for one, other in pairs]
    low, high = paired_interval(p99s)
    result.add("p99 stalled / control", paired_ratio(p99s), "x", most=MOST_RATIO)
    # Told, not judged by: it says how much the median of these pairs can be trusted.
    result.add("p99 stalled / control, low end of its interval", low, "x")
    result.add("p99 stalled / control, high end", high, "x")
    result.add(
        "p99 of a typical second, stalled / control",
        paired_ratio([(one.typical_p99, other.typical_p99) for one, other in pairs]),
        "x",
    )
    result.add(
        "p99 of the first 2 s, while the kernel's buffers fill, stalled / control",
        paired_ratio([(one.filling_p99, other.filling_p99) for one, other in pairs]),
        "x",
    )
    stalled = runs[True]
    result.add("RSS of the broker at its end", max(one.rss_bytes for one in stalled) / MIB, "MiB")
    growth = max(one.rss_growth_bytes for one in stalled) / MIB
    result.add("RSS grown by", growth, "MiB", most=MEMORY_BYTES / MIB)
    result.add(
        "unsent in the kernel, worst reader",
        max(one.most_unsent_bytes for one in stalled) / 1024,
        "KiB",
        most=2 * NOTSENT_LOWAT_BYTES / 1024,
    )
    result.add("unsent in the kernel, all readers", max(one.unsent_bytes for one in stalled) / MIB, "MiB")
    result.add("kernel TCP memory of both sides grown by", max(one.kernel_bytes for one in stalled) / MIB, "MiB")
    result.add("stalled readers cut (policy disconnect)", max(one.cut for one in stalled), "")
    return result


def measure(size: Size, stall: bool) -> Run:
    """One run with a broker of its own."""
    with Server(CONFIG) as server:
        found = _measure_on(server, size, stall)
        found.failures.extend(server.stop())
    return found


def _measure_on(server: Server, size: Size, stall: bool) -> Run:
    others = "work" if stall else "silent"
    with (
        Loop() as loop,
        Crowd(Spec(server.address, _offers("work", size.healthy // 4 - size.sampled), yields=True)) as crowd,
        Crowd(Spec(server.address, _offers(others, size.stalled // 4), reads=False)) as stalled,
    ):
        crowd.opened()
        stalled.opened()
        subscribers = [
            [Subscriber(loop, server.address, f"work.{policy}", size.payload_bytes) for _ in range(size.sampled)]
            for policy in POLICIES
        ]
        publishers = [Publisher(loop, server.address, f"work.{policy}", size.payload_bytes) for policy in POLICIES]
        files, rss, kernel, waited = server.files(), server.rss_bytes(), kernel_tcp_bytes(), server.waited_seconds()
        started = time.monotonic_ns()
        until = started + int(size.seconds * NS)
        for publisher in publishers:
            loop.every(size.period_seconds, publisher.publish, until)
        loop.run_until(started + min(int(WARM_UP_SECONDS * NS), (until - started) // 3))
        warm = [len(subscriber.samples) for group in subscribers for subscriber in group]
        loop.run_until(until + NS // 2)
        everybody = [subscriber for group in subscribers for subscriber in group]
        filling = [
            sample for subscriber, first in zip(everybody, warm, strict=True) for sample in subscriber.samples[:first]
        ] or [0]
        timed = [
            sample
            for subscriber, first in zip(everybody, warm, strict=True)
            for sample in zip(subscriber.dues[first:], subscriber.samples[first:], strict=True)
        ] or [(0, 0)]
        unsent = server.unsent_bytes()
        found = Run(
            latency([sample for _, sample in timed]),
            latency(filling).p99,
            typical_p99(timed),
            server.rss_bytes() - rss,
            server.rss_bytes(),
            max(unsent, default=0),
            sum(unsent),
            kernel_tcp_bytes() - kernel,
            server.waited_seconds() - waited,
            files - server.files(),
            _check_crowd(crowd, [publisher.sent for publisher in publishers], size),
        )
        for policy, group, publisher in zip(POLICIES, subscribers, publishers, strict=True):
            publisher.close()
            for subscriber in group:
                subscriber.close()
            got = [len(subscriber.samples) for subscriber in group]
            ends = sorted({subscriber.ended for subscriber in group if subscriber.ended})
            if ends or min(got) != publisher.sent:
                hint = "" if policy == "disconnect" else MISSED
                found.failures.append(
                    f"{len(group)} timed readers of work.{policy} got {min(got)} to {max(got)} "
                    f"of {publisher.sent} messages{hint}{'; '.join(['', *ends])}"
                )
    return found


def _offers(family: str, each: int) -> dict[str, int]:
    return {f"{family}.{policy}|recv": each for policy in POLICIES}


def _check_crowd(crowd: Crowd, sent: list[int], size: Size) -> list[str]:
    frame = len(server_frame(marked(0, size.payload_bytes)))
    fewest, most = min(sent) * frame, max(sent) * frame
    count = crowd.wait_for(lambda count: count.fewest_bytes >= fewest, ARRIVAL_SECONDS)
    problems = [f"{ended} healthy readers: {why}" for why, ended in count.endings.items()]
    if count.fewest_bytes < fewest or count.most_bytes > most:
        problems.append(
            f"of {fewest} to {most} bytes the healthy readers got {count.fewest_bytes} to {count.most_bytes}{MISSED}"
        )
    return problems
