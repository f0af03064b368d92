"""Cores and memory by what control groups leave, in both of their versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icpo_core.common import limits

ALL = len(os.sched_getaffinity(0))
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
V1 = "5:cpu,cpuacct:/job/step\n4:memory:/job\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("mine", "files", "cores", "memory"),
    [
        ("0::/\n", {}, ALL, MACHINE),
        ("0::/\n", {"cpu.max": "50000 100000", "memory.max": "1000000"}, 1, 1_000_000),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, ALL, MACHINE),
        # A limit above one's own counts, and the mount of a container begins below the path.
        ("0::/pod/box\n", {"pod/cpu.max": "100000 100000", "pod/memory.max": "9"}, 1, 9),
        ("0::/kubepods/pod/box\n", {"cpu.max": "100000 100000", "memory.max": "9"}, 1, 9),
        (
            V1,
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "100000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "memory/job/memory.limit_in_bytes": "77",
            },
            1,
            77,
        ),
        (
            V1,
            {
                "cpu,cpuacct/job/step/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/job/step/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            ALL,
            MACHINE,
        ),
    ],
)
def test_a_limit(
    mine: str,
    files: dict[str, str],
    cores: int,
    memory: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine").write_text(mine)
    for name, text in files.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    monkeypatch.setattr(limits, "MINE", tmp_path / "mine")
    monkeypatch.setattr(limits, "MOUNT", tmp_path / "mount")
    assert limits.cores() == cores
    assert limits.memory() == memory
