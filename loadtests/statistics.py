"""Percentiles and ratios, and nothing clever: nearest rank, so that every number printed is one that was measured.

Used by all scenarios; knows no socket and no clock.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NS_PER_MS = 1_000_000


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that `percent` of all samples do not exceed. Samples in any order, at least one."""
    if not samples:
        raise ValueError("no samples")
    if not 0 < percent <= 100:
        raise ValueError(f"{percent} is no percentile: above 0, at most 100")
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the two in the middle."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True)
class Latency:
    """What is told of a list of latencies, in milliseconds."""

    samples: int
    p50: float
    p99: float
    worst: float


def latency(samples_ns: Sequence[int]) -> Latency:
    return Latency(
        len(samples_ns),
        percentile(samples_ns, 50) / NS_PER_MS,
        percentile(samples_ns, 99) / NS_PER_MS,
        max(samples_ns) / NS_PER_MS,
    )


def typical_p99(timed: Iterable[tuple[int, int]]) -> float:
    """Of (due, latency) in ns: p99 of each second, the median of those, in ms. A few bad seconds leave it alone."""
    seconds: dict[int, list[int]] = {}
    for due_ns, sample in timed:
        seconds.setdefault(due_ns // 1_000_000_000, []).append(sample)
    return median([percentile(samples, 99) for samples in seconds.values()]) / NS_PER_MS


def paired_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Median of (with / without): each pair was measured side by side, so what drifts between pairs cancels out."""
    return median([loaded / control for loaded, control in pairs])


def paired_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where the true median of the ratios lies in about 95 % of cases (order statistics); below 9 pairs, all."""
    ratios = sorted(loaded / control for loaded, control in pairs)
    if not ratios:
        raise ValueError("no pairs")
    cut = 0 if len(ratios) < 9 else max(0, int((len(ratios) - 1.96 * math.sqrt(len(ratios))) / 2))
    return ratios[cut], ratios[-1 - cut]
