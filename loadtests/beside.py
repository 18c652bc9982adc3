"""Scenario `beside`: a huge channel must not delay anybody else.

15 000 subscribers hang on one channel that gets a message a second. Meanwhile three things are timed from when they
were due: a small channel's messages, new connections, and /healthz, which shows how long the broker's loop is busy with
something else.
"""

import time
from dataclasses import dataclass

from loadtests.crowd import Crowd, Spec
from loadtests.loop import NS, Loop, Publisher, Subscriber, Visitor
from loadtests.report import Progress, Result
from loadtests.server import Server, need_files, precedence
from loadtests.statistics import latency
from loadtests.wire import MARKER_BYTES, marked, server_frame

NAME = "beside"
TITLE = "small channels, new connections and the loop beside a huge fan-out"

MOST_P99_MS = 20.0
PAYLOAD_BYTES = 120
SMALL_SUBSCRIBERS = 5
SMALL_PERIOD_SECONDS = 0.02
VISIT_PERIOD_SECONDS = 0.05
ARRIVAL_SECONDS = 30.0


@dataclass(frozen=True)
class Size:
    subscribers: int = 15_000
    quiet_seconds: float = 5.0
    busy_seconds: float = 20.0
    bulk_period_seconds: float = 1.0


QUICK = Size(subscribers=300, quiet_seconds=0.3, busy_seconds=1.0, bulk_period_seconds=0.2)


def scaled(factor: float) -> Size:
    return Size(subscribers=max(1, int(15_000 * factor)))


class Probes:
    """The three measurements, anew for each phase."""

    def __init__(self, loop: Loop, server: Server, seconds: float) -> None:
        self.until = time.monotonic_ns() + int(seconds * NS)
        self._subscribers = [Subscriber(loop, server.address, "small", PAYLOAD_BYTES) for _ in range(SMALL_SUBSCRIBERS)]
        self._publisher = Publisher(loop, server.address, "small", PAYLOAD_BYTES)
        self._visitors = Visitor.of_websocket(loop, server.address)
        self._health = Visitor.of_health(loop, server.address)
        loop.every(SMALL_PERIOD_SECONDS, self._publisher.publish, self.until)
        loop.every(VISIT_PERIOD_SECONDS, self._visitors.visit, self.until)
        loop.every(VISIT_PERIOD_SECONDS, self._health.visit, self.until)

    def close(self) -> None:
        for subscriber in self._subscribers:
            subscriber.close()
        self._publisher.close()

    def report(self, result: Result, when: str, most: float | None) -> None:
        """Adds the percentiles of this phase, and whatever did not arrive as a failure."""
        small = [sample for subscriber in self._subscribers for sample in subscriber.samples]
        expected = self._publisher.sent * SMALL_SUBSCRIBERS
        if len(small) != expected:
            result.failures.append(f"{when}: {len(small)} of {expected} messages of the small channel arrived")
        for name, samples in (
            ("small channel", small),
            ("accept", self._visitors.samples),
            ("loop, by /healthz", self._health.samples),
        ):
            if not samples:
                result.failures.append(f"{when}: {name}: nothing was answered")
                continue
            found = latency(samples)
            result.add(f"{when}: {name}, p50 of {found.samples}", found.p50, "ms")
            result.add(f"{when}: {name}, p99", found.p99, "ms", most=most)
            result.add(f"{when}: {name}, longest", found.worst, "ms")
        ends = {subscriber.ended for subscriber in self._subscribers if subscriber.ended}
        result.failures += [f"{when}: a subscriber of the small channel: {end}" for end in sorted(ends)]
        for kind, visitors in (("new connection", self._visitors), ("/healthz", self._health)):
            result.failures += [f"{when}: {kind}: {text}" for text in sorted(set(visitors.failures))]
            if visitors.open:
                result.failures.append(f"{when}: {kind}: {visitors.open} never answered")


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(size.subscribers + 100)
    with precedence() as first, Server() as server, Loop() as loop:
        progress(f"connecting {size.subscribers} subscribers")
        spec = Spec(server.address, {"crowd|recv": size.subscribers}, yields=True)
        with Crowd(spec) as crowd:
            crowd.opened()
            progress(f"quiet phase, {size.quiet_seconds:g} s")
            quiet = _phase(loop, server, size.quiet_seconds)
            progress(f"a message every {size.bulk_period_seconds:g} s to all of them, {size.busy_seconds:g} s")
            bulk = Publisher(loop, server.address, "crowd", PAYLOAD_BYTES)
            until = time.monotonic_ns() + int(size.busy_seconds * NS)
            loop.every(size.bulk_period_seconds, bulk.publish, until, jitter=0.0)
            cpu, waited = server.cpu_seconds(), server.waited_seconds()
            loop.late.clear()
            busy = _phase(loop, server, size.busy_seconds)
            cpu, waited = server.cpu_seconds() - cpu, server.waited_seconds() - waited
            frame_bytes = len(server_frame(marked(0, max(PAYLOAD_BYTES, MARKER_BYTES))))
            expected = bulk.sent * frame_bytes
            count = crowd.wait_for(lambda count: count.fewest_bytes == expected, ARRIVAL_SECONDS)
            bulk.close()
        result.add("subscribers of the huge channel", count.readers, "")
        result.add("messages to each of them", bulk.sent, "")
        quiet.report(result, "quiet", None)
        busy.report(result, "busy", MOST_P99_MS)
        result.add("busy: CPU of the broker", 100 * cpu / size.busy_seconds, "%")
        result.add("busy: other work had its CPU", 100 * waited / size.busy_seconds, "%")
        result.add("busy: lateness of the load itself, p99", latency(loop.late).p99, "ms")
        result.add("busy: load measured with precedence (1 = yes)", int(first), "")
        result.add("subscribers cut", count.ended, "", exactly=0)
        if not count.fewest_bytes == count.most_bytes == expected:
            result.failures.append(
                f"of {expected} bytes each the subscribers got {count.fewest_bytes} to {count.most_bytes}"
            )
        result.failures += [f"{ended} subscribers: {why}" for why, ended in count.endings.items()]
        result.failures += server.stop()
    return result


def _phase(loop: Loop, server: Server, seconds: float) -> Probes:
    probes = Probes(loop, server, seconds)
    loop.run_until(probes.until + NS // 2)  # what was due last has half a second to arrive
    probes.close()
    return probes
