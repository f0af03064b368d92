"""The parts of `python -m benchmarks.gpu` that start trainers and engines, on the CPU."""

import sys
from pathlib import Path

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the wheel

from benchmarks import gpu, gpu_parts
from icpo_core.common.console import Console
from icpo_core.config import UpdateSection


def test_a_step_is_measured_beside_its_estimate(tmp_path: Path) -> None:
    found = gpu_parts._steps(tmp_path, UpdateSection(dtype="float32"))
    assert found["layout"] == "shared"
    assert found["peak_gib"] == pytest.approx(found["estimated_gib"], rel=0.2)


def test_every_part_runs_without_a_gpu(tmp_path: Path) -> None:
    found = {one.part: one for one in gpu.run_all(list(gpu.PARTS), tmp_path, 3600.0, Console())}
    assert {name: one.said for name, one in found.items() if one.status != "ok"} == {}
    assert found["engine"].figures["stale_told"]
    assert found["deterministic"].figures["all"]
    assert found["resume"].figures["same_weights"]
    assert found["long"].figures["truncated"] == 1.0
