"""How many cores a process counts on, in the control groups of both versions."""

import os
from pathlib import Path

import pytest

from tandem.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"own": "0::/\n"}, 8),
        ({"own": "0::/\n", "cpu.max": "max 100000\n"}, 8),
        ({"own": "0::/\n", "cpu.max": "200000 100000\n"}, 2),
        ({"own": "0::/\n", "cpu.max": "150000 100000\n"}, 2),
        ({"own": "0::/\n", "cpu.max": "10000 100000\n"}, 1),
        ({"own": "0::/\n", "cpu.max": "1600000 100000\n"}, 8),
        ({"own": "0::/a/b\n", "a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ({"own": "0::/not/seen/from/inside\n", "cpu.max": "400000 100000\n"}, 4),
        ({"own": "4:memory:/a\n3:cpu,cpuacct:/a\n", "cpu/a/cpu.cfs_quota_us": "250000\n"}, 8),
        (
            {
                "own": "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
                "cpu/a/cpu.cfs_quota_us": "250000\n",
                "cpu/a/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        ({"own": "1:cpu:/\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_quota_counts_like_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    write(tmp_path, files)
    assert usable_cores(cgroups=tmp_path, own=tmp_path / "own") == cores
