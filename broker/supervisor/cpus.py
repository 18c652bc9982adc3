"""How many processors the broker may use: `--workers auto`.

The smaller of what the scheduler lets this process run on and what its control group pays for (a container's limit is
a quota of time and shows in no count of processors).
"""

import math
import os
from pathlib import Path


def usable_cpus(root: Path = Path("/"), affinity: int | None = None) -> int:
    """At least 1. `root` is where proc and sys are."""
    allowed = affinity if affinity is not None else len(os.sched_getaffinity(0))
    quotas = [quota for quota in (_v2(root), _v1(root)) if quota is not None]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def _v2(root: Path) -> float | None:
    """cpu.max of our group and of those above it, "QUOTA PERIOD" or "max PERIOD"; the tightest counts."""
    quotas = []
    mount = root / "sys/fs/cgroup"
    for folder in _folders(mount, _group(root, "")):
        words = _read(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(_share(words[0], words[1]))
    return min((quota for quota in quotas if quota), default=None)


def _v1(root: Path) -> float | None:
    group = _group(root, "cpu")
    quotas = [
        _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))  # -1 = no quota
        for mount in (root / "sys/fs/cgroup/cpu", root / "sys/fs/cgroup/cpu,cpuacct")
        for folder in _folders(mount, group)
    ]
    return min((quota for quota in quotas if quota), default=None)


def _group(root: Path, controller: str) -> str:
    """The path of our group in the hierarchy of that controller; "" is the one of version 2."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _folders(mount: Path, group: str) -> list[Path]:
    """Our group's folder, and its parents up to the mount. In a container the path may be that of the host and not be
    there; then the mount itself is our group.
    """
    folder = mount / group.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _share(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
