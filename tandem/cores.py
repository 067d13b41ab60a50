"""How many cores this process may keep busy."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(*, cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Returns the cores that the process may run on, or its CPU quota rounded up where that is less.

    A container's limit is a quota: the process sees every core of the machine, and is stopped for the rest of each
    tenth of a second once it has used up its share.
    """
    cores = len(os.sched_getaffinity(0))
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas(cgroups, own))])


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yields the quota, in cores, of each control group that the process is in and that has one."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        # Inside a container the root may be the group itself, whatever the path says.
        folder = root / path.lstrip("/")
        for group in {root, folder, *folder.parents}:
            if group.is_relative_to(root):
                yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    # One file in version 2 of control groups ("max 100000", "150000 100000"), two in version 1 (-1 is no limit).
    both = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    match both.split():
        case [quota, period] if quota.isdecimal():
            yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
