"""`python -m benchmarks.gpu` without a GPU: its plan, its limits, and the parts that are quick."""

import json
import sys

import pytest
from places import ROOT

sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the wheel

from benchmarks import gpu, gpu_parts
from icpo_core.common.console import Console

pytestmark = pytest.mark.skipif(gpu_parts.GPU, reason="there is a GPU: run the kit itself")


def test_the_plan_names_every_part_and_starts_none(capsys, tmp_path):
    assert gpu.main(["--dry-run", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in gpu.PARTS)
    assert not (tmp_path / "out").exists()
    # All limits together are what a machine is had for.
    assert sum(part.seconds for part in gpu.PARTS.values()) <= 15 * 60


def test_what_was_measured_is_there_when_the_machine_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CPU_LIMIT", 60.0)
    result = gpu.run_part("machine", 0.05, tmp_path)
    assert (result.status, result.figures) == ("late", {})
    [found] = gpu.run_all(["machine"], tmp_path, 60.0, Console())
    assert found.status == "ok"
    assert found.figures["machine"]["devices"]["count"] == 0
    stored = json.loads((tmp_path / "gpu.json").read_text())
    assert stored["device"] == "cpu"
    assert [one["part"] for one in stored["parts"]] == ["machine"]
    [left] = gpu.run_all(["machine"], tmp_path, 0.0, Console())
    assert left.status == "left out"
