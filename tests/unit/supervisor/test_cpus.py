"""--workers auto: no more workers than somebody pays for."""

from pathlib import Path

import pytest

from broker.supervisor.cpus import usable_cpus


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


CASES: dict[str, tuple[dict[str, str], int]] = {
    "nothing to read": ({}, 8),
    "v2 without a quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "v2 in a container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "v2 rounded up": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "v2 below one": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "v2 more than there are": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 8),
    "v2 of a service": (
        {"proc/self/cgroup": "0::/system.slice/b\n", "sys/fs/cgroup/system.slice/b/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2 of the slice above": (
        {
            "proc/self/cgroup": "0::/system.slice/b\n",
            "sys/fs/cgroup/system.slice/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "v2 with the host's path": (
        {"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
        2,
    ),
    "v1": (
        {
            "proc/self/cgroup": "4:memory:/x\n1:cpu,cpuacct:/pod\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "v1 without a quota": (
        {
            "proc/self/cgroup": "1:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    "nonsense": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "a lot\n"}, 8),
    "a period of nothing": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 0\n"}, 8),
}


@pytest.mark.parametrize("case", CASES, ids=CASES.keys())
def test_the_smaller_of_affinity_and_quota_counts(case: str, tmp_path: Path) -> None:
    files, expected = CASES[case]
    assert usable_cpus(machine(tmp_path, files), affinity=8) == expected


def test_here_is_at_least_one() -> None:
    assert usable_cpus() >= 1
